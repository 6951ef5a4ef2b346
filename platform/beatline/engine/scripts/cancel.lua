-- Cancel a run: nothing of it begins any more. What a worker holds goes on until that worker, which is told, ends it.
-- KEYS  run, events
-- ARGV  latest attempt that PostgreSQL knows, order (the cancelled event), life of the record in s, '1' if a run without a
--       record may be with a worker all the same, '1' if only a run that no worker holds is meant
-- Returns {'cancelled', attempt that has ended so}, {'leased', its worker or ''} or {'ended', ''}: it is over by itself.
redis.call('HDEL', KEYS[1], '')

local record = redis.call('HMGET', KEYS[1], 'attempt', 'state', 'worker')
local state = record[2]
if (state == 'ended' or state == 'dead') and tonumber(ARGV[1]) <= tonumber(record[1]) then
  return {'ended', ''}
elseif state == 'leased' or (not state and ARGV[4] == '1') then
  if ARGV[5] ~= '1' then
    redis.call('HSET', KEYS[1], 'cancel', ARGV[2])
    redis.call('EXPIRE', KEYS[1], ARGV[3])
  end
  return {'leased', record[3] or ''}
end

-- What is closed or was returned asks for the next attempt: its message waits somewhere, or is still to come.
local attempt = tonumber(record[1] or '0')
if state and state ~= 'cancelled' then
  attempt = attempt + 1
end
attempt = math.max(attempt, tonumber(ARGV[1]))
local said = cjson.decode(ARGV[2])
said.attempt = attempt
redis.call('HSET', KEYS[1], 'attempt', attempt, 'state', 'cancelled', 'cancel', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('XADD', KEYS[2], '*', 'e', cjson.encode(said))
return {'cancelled', tostring(attempt)}
