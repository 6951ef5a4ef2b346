-- Publish the first attempt of a run whose id its caller gave, or leave it to wait in PostgreSQL, unless the id is taken.
-- KEYS  list, events, index of the queue, run      ARGV  run id, event, time in ms, message or '' if it is to wait
-- Returns 1, or 0 if the id is taken: then nothing was written.
if redis.call('EXISTS', KEYS[4]) == 1 or redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  return 0
end
if ARGV[4] ~= '' then
  redis.call('LPUSH', KEYS[1], ARGV[4])
  redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
end
redis.call('XADD', KEYS[2], '*', 'e', ARGV[2])
return 1
