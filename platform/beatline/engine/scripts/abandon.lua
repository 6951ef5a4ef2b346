-- The holder knows that its attempt will not end (a killed pool child, a worker that stops): the lease expires now
-- instead of by silence.
-- KEYS  run, leases      ARGV  run id, fence, reason, '1' if the attempt counts as begun
-- Returns 1, or 0 if the lease is another's.
redis.call('ZREM', KEYS[2], '')

local record = redis.call('HMGET', KEYS[1], 'fence', 'state')
if record[1] ~= ARGV[2] or record[2] ~= 'leased' then
  return 0
end
redis.call('HSET', KEYS[1], 'lost_reason', ARGV[3])
if ARGV[4] == '1' then
  redis.call('HSET', KEYS[1], 'begun', '1')
end
redis.call('ZADD', KEYS[2], 'XX', 0, ARGV[1])
return 1
