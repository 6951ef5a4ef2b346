-- Claim an attempt of a run for one worker, or say why not.
-- KEYS  run, leases, epoch, fence counter, events, beginning of the epoch, index of its queue
-- ARGV  run id, attempt, worker, lease in ms, day, epoch the sender knew, life of the record in s, accepted event or '',
--       token of the delivery: a claim whose answer was lost is asked again, and must not meet itself,
--       when the message was sent in ms or '' if it is not to be doubted, the age in ms from which one is doubted, how far
--       clocks may differ in ms, the epoch in which PostgreSQL vouched for it or 0, '1' if it said that the run is running,
--       run id of the server that the caller believes to speak to or '', the epoch the caller knew
-- Returns {'run', fence, day} | {'drop', what stands} | {'later'}: a newer attempt waits while an older one is leased
-- | {'ask', epoch, ms}: it is in doubt, as is all that was sent before then | {'wait', epoch, ms}: PostgreSQL vouched for
-- it, but for so long somebody who held it before may come back | {'cancelled', the event that says so, '1' if who waits
-- for the run was told}: it was cancelled before this attempt, which has its end now.
redis.call('ZREM', KEYS[2], '')  -- frees nothing, but a script that has written may go on writing at maxmemory

local attempt = tonumber(ARGV[2])
local record = redis.call('HMGET', KEYS[1], 'attempt', 'state', 'day', 'token', 'fence', 'cancel')
if record[1] then
  if attempt == tonumber(record[1]) and record[2] == 'leased' and record[4] == ARGV[9] then
    return {'run', record[5], record[3]}
  elseif attempt <= tonumber(record[1]) then
    redis.call('ZREM', KEYS[7], ARGV[1])
    return {'drop', record[2]}
  elseif record[2] == 'leased' then
    return {'later'}
  end
end
if record[6] then
  redis.call('ZREM', KEYS[7], ARGV[1])
  if record[2] == 'ended' then
    return {'drop', record[2]}
  end
  local said = cjson.decode(record[6])
  said.attempt = attempt
  redis.call('HSET', KEYS[1], 'attempt', attempt, 'state', 'cancelled')
  redis.call('EXPIRE', KEYS[1], ARGV[7])
  redis.call('XADD', KEYS[5], '*', 'e', cjson.encode(said))
  return {'cancelled', record[6], record[2] == 'cancelled' and '1' or '0'}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('MGET', KEYS[3], KEYS[6])
local epoch, sender = tonumber(known[1] or '0'), tonumber(ARGV[6])
local of, since, survived, server = string.match(known[2] or '', '^(%d+) (%d+) ([01]) (%w*)$')
local begins = false
if epoch == 0 then
  -- Redis is new or was wiped, and the recorder has not said the epoch yet: go past the one that is known.
  epoch, begins = math.max(sender, tonumber(ARGV[16])) + 1, true
elseif server and server ~= '' and ARGV[15] ~= '' and server ~= ARGV[15] then
  epoch, begins = epoch + 1, true  -- restarted or failed over, and the recorder has not noticed yet
end
if begins or tonumber(of) ~= epoch then
  -- When it began was not noted. Before now, that is certain: so all that was sent before now is doubted.
  since, survived = now, known[1] and '1' or '0'
  if begins then
    redis.call('SET', KEYS[3], epoch)
  end
  redis.call('SET', KEYS[6], string.format('%.0f %.0f %s %s', epoch, since, survived, ARGV[15]))
end
if not record[1] and ARGV[10] ~= '' then
  local sent, vouched = tonumber(ARGV[10]), tonumber(ARGV[13]) == epoch
  local aged, ours = now - ARGV[11], since + ARGV[12]
  if not vouched and (sent < aged or (sender == 0 and sent < ours) or (sender ~= 0 and sender ~= epoch)) then
    return {'ask', epoch, string.format('%.0f', math.max(aged, ours))}
  end
  -- Every worker that lives renews what it holds within a third of a lease. Where the data outlived the server, a lease
  -- may be lost whose message is not; and who has begun a run is given a full lease.
  local hold = since + (ARGV[14] == '1' and ARGV[4] or survived == '1' and ARGV[4] / 3 or 0) - now
  if vouched and hold > 0 then
    return {'wait', epoch, string.format('%.0f', hold)}
  end
end

local fence = string.format('%.0f', epoch * 4294967296 + redis.call('INCR', KEYS[4]))
local day = record[3] or ARGV[5]

redis.call('HSET', KEYS[1], 'attempt', attempt, 'state', 'leased', 'fence', fence, 'worker', ARGV[3], 'day', day,
  'begun', '0', 'token', ARGV[9])
redis.call('EXPIRE', KEYS[1], ARGV[7])
redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[1])
redis.call('ZREM', KEYS[7], ARGV[1])
if ARGV[8] ~= '' and not record[1] then
  redis.call('XADD', KEYS[5], '*', 'e', ARGV[8])
end
return {'run', fence, day}
