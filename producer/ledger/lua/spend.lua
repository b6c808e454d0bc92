-- A request of an owner begins, if it is within the owner's limits, and counts; or it is over, and gives back what it
-- has not taken. All or nothing.
-- KEYS  1 hash of what is left of each limit, and when that was  2 sorted set of the requests that are open, by the
--       ms on Redis' clock until which they count
-- ARGV  1 requests a minute  2 tokens a minute  3 open at once; 0 for no limit
--       4 requests and 5 tokens that it takes; below 0 are given back
--       6 id of the request  7 for how long it counts as open, ms; 0: it is over
-- Returns {} when it is let in; else which limit is reached, and in how many ms there is room, 0 if nobody can tell.
local now = now_ms()
local limits = {requests = tonumber(ARGV[1]), tokens = tonumber(ARGV[2])}
local costs = {requests = tonumber(ARGV[4]), tokens = tonumber(ARGV[5])}
local left = {}
-- Said again, its reply was lost: what has begun is in, and what is over has given back what it had to.
local is_over, is_open = ARGV[7] == '0', redis.call('ZREM', KEYS[2], ARGV[6]) == 1
if is_open and not is_over then redis.call('ZADD', KEYS[2], now + ARGV[7], ARGV[6]) end
if is_open ~= is_over then return {} end

-- A limit fills up within a minute.
local function left_of(name, limit)
  local fields = fields_of(KEYS[1], name, name .. '_at_ms')
  local known, at = tonumber(fields[1] or ''), tonumber(fields[2] or '')
  if not known or not at or at > now + 60000 then return limit end -- the last: the clock has gone back
  return math.min(limit, known + math.max(0, now - at) * limit / 60000)
end

for _, name in ipairs({'requests', 'tokens'}) do
  local limit = limits[name]
  if limit > 0 then
    left[name] = left_of(name, limit)
    local needed = math.min(costs[name], limit) -- what takes more than a minute's is let in where all of that is left
    if not is_over and left[name] < needed then return {name, math.ceil((needed - left[name]) * 60000 / limit)} end
  end
end

if not is_over then
  local most = tonumber(ARGV[3])
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if most > 0 and redis.call('ZCARD', KEYS[2]) >= most then return {'open', 0} end
  redis.call('ZADD', KEYS[2], now + ARGV[7], ARGV[6])
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
end

for name, known in pairs(left) do
  local limit = limits[name]
  local after = math.min(limit, known - costs[name])
  redis.call('HSET', KEYS[1], name, string.format('%.6f', after), name .. '_at_ms', now)
  -- Once it is full again nothing needs to be known of it; of two limits the longer time counts.
  local full_ms = math.ceil((limit - after) * 60000 / limit) + 1000
  if redis.call('PTTL', KEYS[1]) < full_ms then redis.call('PEXPIRE', KEYS[1], full_ms) end
end
return {}
