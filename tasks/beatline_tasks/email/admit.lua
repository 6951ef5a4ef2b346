-- Let one connection to a mail host begin, or say why not.
-- KEYS  connections to the host, what is known of the server if it is down
-- ARGV  token of the connection, cap, life of the connection in ms, time between two tries of a dead server in ms
-- Returns {'go'} | {'probe'}: it is down, and this one tries | {'full'} | {'down', why}
redis.call('ZREM', KEYS[1], '')  -- frees nothing, but a script that has written may go on writing at maxmemory

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local down = redis.call('HMGET', KEYS[2], 'why', 'next')
if down[1] and down[2] and tonumber(down[2]) > now then
  return {'down', down[1]}
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return {'full'}
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
if down[1] then
  redis.call('HSET', KEYS[2], 'next', now + ARGV[4])
  return {'probe'}
end
return {'go'}
