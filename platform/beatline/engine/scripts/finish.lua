-- End an attempt: only the holder of its lease may.
-- KEYS  run, leases, events
-- ARGV  run id, fence, attempt, state (ended: the run is over; closed: another attempt follows), day, life of the record
--       in s, end event, '' or the stream id under which this end was taken before: Redis may have lost it since
-- Returns the stream id of the event, or false if refused. A record that Redis has forgotten, or gone back behind, is no
-- other holder: the end counts. An end that was taken before and is sent again, because its answer was lost, is taken and
-- changes nothing.
redis.call('ZREM', KEYS[2], '')

local function last_id()
  local info = redis.pcall('XINFO', 'STREAM', KEYS[3])
  for i = 1, info.err and 0 or #info, 2 do
    if info[i] == 'last-generated-id' then
      return info[i + 1]
    end
  end
end

local function older(id, other)
  local ms, n = string.match(id, '(%d+)-(%d+)')
  local other_ms, other_n = string.match(other, '(%d+)-(%d+)')
  return tonumber(ms) < tonumber(other_ms) or (ms == other_ms and tonumber(n) < tonumber(other_n))
end

local record = redis.call('HMGET', KEYS[1], 'fence', 'state')
local behind = not record[1] or tonumber(record[1]) < tonumber(ARGV[2])
local held = record[1] == ARGV[2] and record[2] == 'leased'
if record[1] == ARGV[2] and record[2] == ARGV[4] then
  local last = last_id()
  if last and (ARGV[8] == '' or not older(last, ARGV[8])) then
    return ARGV[8] == '' and last or ARGV[8]
  end
  return redis.call('XADD', KEYS[3], '*', 'e', ARGV[7])  -- the record is left, its event was lost
elseif not behind and not held then
  -- What was taken once is the ledger's, even if the run was claimed anew since.
  return ARGV[8] ~= '' and redis.call('XADD', KEYS[3], '*', 'e', ARGV[7])
elseif ARGV[8] ~= '' and ARGV[4] == 'closed' then
  return false  -- what it asked for is lost as well: better this attempt once more than none
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], 'attempt', ARGV[3], 'state', ARGV[4], 'fence', ARGV[2], 'day', ARGV[5])
redis.call('EXPIRE', KEYS[1], ARGV[6])
return redis.call('XADD', KEYS[3], '*', 'e', ARGV[7])
