-- End a leased attempt that will not end by itself, and put the next attempt into its queue, or nothing if it is dead, or
-- if the next one waits for its time in PostgreSQL.
-- KEYS  run, leases, events, queue list, index of that queue
-- ARGV  run id, fence, '1' if only an expired lease counts, life of the record in s, message of the next attempt or '',
--       '1' if the run is not dead without a message, then the events to append, in order
-- Returns 1, or 0 if the lease is another's, has ended, or has not expired.
redis.call('ZREM', KEYS[2], '')

local record = redis.call('HMGET', KEYS[1], 'fence', 'state')
if record[1] ~= ARGV[2] or record[2] ~= 'leased' then
  if record[2] ~= 'leased' then
    redis.call('ZREM', KEYS[2], ARGV[1])  -- a lease without a leased record holds nothing
  end
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[3] == '1' then
  local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
  if score and tonumber(score) > now then
    return 0
  end
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], 'state', ARGV[5] == '' and ARGV[6] ~= '1' and 'dead' or 'returned')
redis.call('HDEL', KEYS[1], 'lost_reason')
redis.call('EXPIRE', KEYS[1], ARGV[4])
for i = 7, #ARGV do
  redis.call('XADD', KEYS[3], '*', 'e', ARGV[i])
end
if ARGV[5] ~= '' then
  redis.call('LPUSH', KEYS[4], ARGV[5])
  redis.call('ZADD', KEYS[5], now, ARGV[1])
end
return 1
