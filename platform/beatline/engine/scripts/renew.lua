-- Renew the leases that one worker says it holds, each by name and fence.
-- KEYS  leases, then a run key per lease
-- ARGV  lease in ms, life of the record in s, then per lease: run id, fence, attempt, worker, day
-- Returns the fences of leases that are no longer this worker's. One that Redis has forgotten is written again.
redis.call('ZREM', KEYS[1], '')

local now = redis.call('TIME')
local until_ms = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[1]
local gone = {}
for i = 2, #KEYS do
  local a = 3 + (i - 2) * 5
  local record = redis.call('HMGET', KEYS[i], 'fence', 'state')
  if not record[1] then
    redis.call('HSET', KEYS[i], 'attempt', ARGV[a + 2], 'state', 'leased', 'fence', ARGV[a + 1],
      'worker', ARGV[a + 3], 'day', ARGV[a + 4], 'begun', '1')
    record = {ARGV[a + 1], 'leased'}
  end
  if record[1] == ARGV[a + 1] and record[2] == 'leased' then
    redis.call('ZADD', KEYS[1], until_ms, ARGV[a])
    redis.call('EXPIRE', KEYS[i], ARGV[2])
  else
    gone[#gone + 1] = ARGV[a + 1]
  end
end
return gone
