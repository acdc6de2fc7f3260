-- A holder's word: `save` of session.rs. Answers 1 for saved, 0 for fenced.
-- KEYS: the session. ARGV: format, ttl in ms, owner, epoch, count, 1 if parked.
local key, epoch, count, parked = KEYS[1], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'
local known = redis.call('HMGET', key, 'format', 'epoch', 'count', 'awaited_epoch', 'holder')
if not known[2] then
  redis.call('HSET', key, 'format', ARGV[1], 'epoch', ARGV[4], 'count', ARGV[5])
  if not parked then
    redis.call('HSET', key, 'holder', ARGV[3])
  end
  redis.call('PEXPIRE', key, ARGV[2])
  return 1
end
if math.floor(tonumber(known[1]) / 100) ~= math.floor(tonumber(ARGV[1]) / 100) then
  return redis.error_reply('FORMAT ' .. known[1])
end
local held = tonumber(known[2])
local late = epoch < held
if late and tonumber(known[4] or '0') ~= epoch then
  return 0
end
if epoch == held and not parked and known[5] and known[5] ~= ARGV[3] then
  return 0
end
if count > tonumber(known[3]) then
  -- As it came: a number that Lua writes would lose its last digits.
  redis.call('HSET', key, 'count', ARGV[5])
end
if late then
  if parked then
    redis.call('HDEL', key, 'awaited_epoch', 'awaited_from')
  end
elseif epoch > held then
  redis.call('HDEL', key, 'awaited_epoch', 'awaited_from')
  redis.call('HSET', key, 'epoch', ARGV[4], 'holder', ARGV[3])
  if parked then
    redis.call('HDEL', key, 'holder')
  end
elseif parked then
  redis.call('HDEL', key, 'holder')
end
redis.call('PEXPIRE', key, ARGV[2])
return (late and not parked) and 0 or 1
