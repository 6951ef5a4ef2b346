-- Look at a piece of a list, from its newest end, and note in the index of its queue whose messages lie there.
-- KEYS  list, index
-- ARGV  where to begin, how many messages at most, how many bytes of them are enough, the time to note in ms
-- Returns {messages looked at, messages among them that name no run of Beatline's, or one that was noted already}.
-- A list that workers take from and senders add to never loses a message to who reads it from that end, piece by piece.
redis.call('ZREM', KEYS[2], '')

local at, limit, bytes, others = tonumber(ARGV[1]), tonumber(ARGV[1]) + ARGV[2], 0, 0

local function run_of(payload)
  if not string.find(payload, '"bl_v"', 1, true) then
    return nil
  end
  -- The first "id" outside of a text is the run's: Celery writes it before all that a caller may add. (A quote within a
  -- text follows a backslash.) Reading the whole message takes ten times as long, and is for ids that need it.
  local id = string.match(payload, '"id": ?"([^"]*)"')
  if id and not string.find(id, '\\', 1, true) then
    return id
  end
  local read, message = pcall(cjson.decode, payload)
  local head = read and type(message) == 'table' and message['headers']
  local ours = type(head) == 'table' and head['bl_v'] and type(head['id']) == 'string'
  return ours and head['id']
end

while at < limit and bytes < tonumber(ARGV[3]) do
  local payloads = redis.call('LRANGE', KEYS[1], at, math.min(at + 20, limit) - 1)
  if #payloads == 0 then
    break
  end
  for _, payload in ipairs(payloads) do
    local run = run_of(payload)
    if run and redis.call('ZSCORE', KEYS[2], run) ~= ARGV[4] then
      redis.call('ZADD', KEYS[2], ARGV[4], run)
    else
      others = others + 1
    end
    bytes = bytes + #payload
  end
  at = at + #payloads
end
return {at - tonumber(ARGV[1]), others}
