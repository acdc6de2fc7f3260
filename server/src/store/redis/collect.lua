-- A claimant's question: `collect` of session.rs. Answers as a claim does, and 0 for lost.
-- KEYS: the session. ARGV: format, ttl in ms, owner, epoch, 1 if it waits no longer.
local key, asked = KEYS[1], tonumber(ARGV[4])
local known = redis.call('HMGET', key, 'format', 'epoch', 'count', 'holder', 'awaited_epoch', 'awaited_from')
if not known[2] then
  return false
end
if math.floor(tonumber(known[1]) / 100) ~= math.floor(tonumber(ARGV[1]) / 100) then
  return redis.error_reply('FORMAT ' .. known[1])
end
local epoch, awaited_epoch, awaited_from = tonumber(known[2]), known[5], known[6]
if epoch > asked or (epoch == asked and known[4] ~= ARGV[3]) then
  return 0
end
local changed = false
if epoch < asked then
  awaited_epoch, awaited_from = known[4] and known[2], known[4]
  redis.call('HSET', key, 'epoch', ARGV[4], 'holder', ARGV[3])
  if awaited_epoch then
    redis.call('HSET', key, 'awaited_epoch', awaited_epoch, 'awaited_from', awaited_from)
  else
    redis.call('HDEL', key, 'awaited_epoch', 'awaited_from')
  end
  changed = true
end
if awaited_epoch and ARGV[5] == '1' then
  redis.call('HDEL', key, 'awaited_epoch', 'awaited_from')
  awaited_epoch = false
  changed = true
end
if changed then
  redis.call('PEXPIRE', key, ARGV[2])
end
if awaited_epoch then
  return {ARGV[4], awaited_epoch, awaited_from}
end
return {ARGV[4], known[3]}
