-- End an attempt: only the holder of its lease may.
-- KEYS  run, leases, events
-- ARGV  run id, fence, attempt, state (ended: the run is over; closed: another attempt follows), day, life of the record
--       in s, end event
-- Returns 1, or 0 if refused. A record that Redis has forgotten is no other holder: the end counts. An end that was
-- taken before and is sent again, because its answer was lost, is taken and changes nothing.
redis.call('ZREM', KEYS[2], '')

local record = redis.call('HMGET', KEYS[1], 'fence', 'state')
if record[1] == ARGV[2] and record[2] == ARGV[4] then
  return 1
elseif record[1] and (record[1] ~= ARGV[2] or record[2] ~= 'leased') then
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], 'attempt', ARGV[3], 'state', ARGV[4], 'fence', ARGV[2], 'day', ARGV[5])
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('XADD', KEYS[3], '*', 'e', ARGV[7])
return 1
