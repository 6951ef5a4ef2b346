-- Renew the leases that one worker says it holds, each by name and fence, and tell how far its ends have been recorded.
-- KEYS  leases, epoch, beginning of the epoch, events, then a run key per lease
-- ARGV  lease in ms, life of the record in s, then per lease: run id, fence, attempt, worker, day,
--       '1' if it has begun, '1' if it parks its run when it is lost
-- Returns {fences of leases that are no longer this worker's, epoch or '', what is noted of its beginning or '', run id and
-- replication id of the server or '', id of the stream's first entry or '', the last id it gave, fence
-- and order of each lease whose run is to be cancelled, one after the other}. A lease that Redis has
-- forgotten, or gone back behind, is written again.
redis.call('ZREM', KEYS[1], '')

local now = redis.call('TIME')
local until_ms = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[1]
local gone, cancelled = {}, {}
for i = 5, #KEYS do
  local a = 3 + (i - 5) * 7
  local record = redis.call('HMGET', KEYS[i], 'fence', 'state', 'cancel')
  if not record[1] or tonumber(record[1]) < tonumber(ARGV[a + 1]) then
    redis.call('HSET', KEYS[i], 'attempt', ARGV[a + 2], 'state', 'leased', 'fence', ARGV[a + 1],
      'worker', ARGV[a + 3], 'day', ARGV[a + 4], 'begun', ARGV[a + 5])
    redis.call('HDEL', KEYS[i], 'lost_reason', 'token')
    if ARGV[a + 6] == '1' then
      redis.call('HSET', KEYS[i], 'parks', ARGV[a + 1])
    end
    record = {ARGV[a + 1], 'leased', record[3]}
  end
  if record[1] == ARGV[a + 1] and record[2] == 'leased' then
    redis.call('ZADD', KEYS[1], until_ms, ARGV[a])
    redis.call('EXPIRE', KEYS[i], ARGV[2])
    if record[3] then
      cancelled[#cancelled + 1] = ARGV[a + 1]
      cancelled[#cancelled + 1] = record[3]
    end
  else
    gone[#gone + 1] = ARGV[a + 1]
  end
end

local function said(section, name)
  local info = redis.pcall('INFO', section)
  return type(info) == 'string' and string.match(info, name .. ':(%x+)')
end
local run_id, replication_id = said('server', 'run_id'), said('replication', 'master_replid')
local epoch = redis.call('MGET', KEYS[2], KEYS[3])
local stream = redis.pcall('XINFO', 'STREAM', KEYS[4])
local known = {}
for i = 1, stream.err and 0 or #stream, 2 do
  known[stream[i]] = stream[i + 1]
end
local first = known['first-entry']
return {gone, epoch[1] or '', epoch[2] or '', run_id and replication_id and run_id .. ' ' .. replication_id or '',
  first and first[1] or '', known['last-generated-id'] or '0-0', cancelled}
