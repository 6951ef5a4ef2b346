-- Claim an attempt of a run for one worker, or say why not.
-- KEYS  run, leases, epoch, fence counter, events
-- ARGV  run id, attempt, worker, lease in ms, day, epoch the sender knew, life of the record in s, accepted event or '',
--       token of the delivery: a claim whose answer was lost is asked again, and must not meet itself
-- Returns {'run', fence, day} | {'drop', what stands} | {'later'}: a newer attempt waits while an older one is leased.
redis.call('ZREM', KEYS[2], '')  -- frees nothing, but a script that has written may go on writing at maxmemory

local attempt = tonumber(ARGV[2])
local record = redis.call('HMGET', KEYS[1], 'attempt', 'state', 'day', 'token', 'fence')
if record[1] then
  if attempt == tonumber(record[1]) and record[2] == 'leased' and record[4] == ARGV[9] then
    return {'run', record[5], record[3]}
  elseif attempt <= tonumber(record[1]) then
    return {'drop', record[2]}
  elseif record[2] == 'leased' then
    return {'later'}
  end
end

local epoch = tonumber(redis.call('GET', KEYS[3]) or '0')
if epoch == 0 then
  -- Redis is new or was wiped, and the recorder has not said the epoch yet: go past the one the sender knew.
  epoch = tonumber(ARGV[6]) + 1
  redis.call('SET', KEYS[3], epoch)
end
local fence = string.format('%.0f', epoch * 4294967296 + redis.call('INCR', KEYS[4]))
local day = record[3] or ARGV[5]
local now = redis.call('TIME')

redis.call('HSET', KEYS[1], 'attempt', attempt, 'state', 'leased', 'fence', fence, 'worker', ARGV[3], 'day', day,
  'begun', '0', 'token', ARGV[9])
redis.call('EXPIRE', KEYS[1], ARGV[7])
redis.call('ZADD', KEYS[2], now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[4], ARGV[1])
if ARGV[8] ~= '' and not record[1] then
  redis.call('XADD', KEYS[5], '*', 'e', ARGV[8])
end
return {'run', fence, day}
