-- The rules of `session.rs`, where Redis keeps the session: KEYS[1] is its hash, ARGV says what is
-- done to it. One key alone, so that the keys may be spread over a cluster.
--
--   save     owner ttl format epoch count parked
--   claim    owner ttl format
--   collect  owner ttl format epoch last
--
-- Answers the outcome's number, as in `redis.rs`; those of a claim also epoch, count and who is
-- awaited. A hash of a newer format is left alone.

local SAVED, FENCED, HELD, AWAITING, UNKNOWN, LOST = 0, 1, 2, 3, 4, 5

local key, op, owner, ttl, format = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local fields = redis.call('HMGET', key,
  'format', 'epoch', 'count', 'holder', 'awaited_epoch', 'awaited_from')
local known = fields[2]
if known and tonumber(fields[1]) > tonumber(format) then
  return op == 'save' and FENCED or LOST
end
local epoch, count = tonumber(fields[2]), tonumber(fields[3])
local holder, awaited_epoch, awaited_from = fields[4], tonumber(fields[5] or nil), fields[6]

local function keep(kept_holder, kept_awaited)
  redis.call('HSET', key, 'format', format, 'epoch', epoch, 'count', count)
  if kept_holder then
    redis.call('HSET', key, 'holder', kept_holder)
  elseif holder then
    redis.call('HDEL', key, 'holder')
  end
  if kept_awaited then
    redis.call('HSET', key, 'awaited_epoch', awaited_epoch, 'awaited_from', awaited_from)
  elseif awaited_epoch then
    redis.call('HDEL', key, 'awaited_epoch', 'awaited_from')
  end
  redis.call('PEXPIRE', key, ttl)
end

local function answer(awaited)
  if awaited then
    return { AWAITING, epoch, count, awaited_epoch, awaited_from }
  end
  return { HELD, epoch, count }
end

if op == 'save' then
  local word_epoch, word_count, parked = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
  local by = not parked and owner
  if not known then
    epoch, count = word_epoch, word_count
    keep(by, false)
    return SAVED
  end
  if word_epoch < epoch then
    if awaited_epoch ~= word_epoch then
      return FENCED
    end
    count = math.max(count, word_count)
    keep(holder, not parked)
    return parked and SAVED or FENCED
  end
  if word_epoch == epoch and holder and holder ~= owner then
    return FENCED
  end
  count = math.max(count, word_count)
  if word_epoch > epoch then
    epoch = word_epoch
    keep(by, false)
  else
    keep(not parked and holder, awaited_epoch)
  end
  return SAVED
end

if op == 'claim' then
  if not known then
    return UNKNOWN
  end
  if not awaited_epoch and holder then
    awaited_epoch, awaited_from = epoch, holder
  end
  epoch = epoch + 1
  keep(owner, awaited_epoch)
  return answer(awaited_epoch)
end

local claimed, last = tonumber(ARGV[5]), ARGV[6] == '1'
if not known then
  return UNKNOWN
end
if epoch > claimed or (epoch == claimed and holder ~= owner) then
  return LOST
end
local awaited = awaited_epoch
if epoch < claimed then
  awaited = holder
  if holder then
    awaited_epoch, awaited_from = epoch, holder
  end
  epoch = claimed
end
awaited = not last and awaited
keep(owner, awaited)
return answer(awaited)
