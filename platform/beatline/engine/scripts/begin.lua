-- A pool has accepted the run: from here on the attempt counts.
-- KEYS  run, events      ARGV  fence, started event
-- Returns 1, or 0 if the lease is another's.
redis.call('HDEL', KEYS[1], '')

local record = redis.call('HMGET', KEYS[1], 'fence', 'state')
if record[1] ~= ARGV[1] or record[2] ~= 'leased' then
  return 0
end
redis.call('HSET', KEYS[1], 'begun', '1')
redis.call('XADD', KEYS[2], '*', 'e', ARGV[2])
return 1
