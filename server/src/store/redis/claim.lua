-- A claim: `claim` of session.rs. Answers nil for unknown, {epoch, count} for held, and
-- {epoch, awaited epoch, awaited from} for awaiting.
-- KEYS: the session. ARGV: format, ttl in ms, owner.
local key = KEYS[1]
local known = redis.call('HMGET', key, 'format', 'epoch', 'count', 'holder', 'awaited_epoch', 'awaited_from')
if not known[2] then
  return false
end
if math.floor(tonumber(known[1]) / 100) ~= math.floor(tonumber(ARGV[1]) / 100) then
  return redis.error_reply('FORMAT ' .. known[1])
end
local epoch = string.format('%.0f', tonumber(known[2]) + 1)
local awaited_epoch, awaited_from = known[5], known[6]
redis.call('HSET', key, 'epoch', epoch, 'holder', ARGV[3])
if not awaited_epoch and known[4] then
  awaited_epoch, awaited_from = known[2], known[4]
  redis.call('HSET', key, 'awaited_epoch', awaited_epoch, 'awaited_from', awaited_from)
end
redis.call('PEXPIRE', key, ARGV[2])
if awaited_epoch then
  return {epoch, awaited_epoch, awaited_from}
end
return {epoch, known[3]}
