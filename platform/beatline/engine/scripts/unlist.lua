-- Take runs out of an index whose messages lie in no list of the queue any more.
-- KEYS  index      ARGV  runs that were published or seen since this time, in ms, stay; then the runs
local gone = {}
for i = 2, #ARGV do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if score and tonumber(score) < tonumber(ARGV[1]) then
    gone[#gone + 1] = ARGV[i]
  end
end
return #gone > 0 and redis.call('ZREM', KEYS[1], unpack(gone)) or 0
