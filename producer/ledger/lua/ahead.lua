-- How many jobs of other queues are served before one, as far as that can be told now: all of higher priorities, and
-- of its own as many of each group as turns come before its own.
-- KEYS  1.. for each priority, from the highest down to the job's own: the queue, the turns of its groups
-- ARGV  1 the job's group, '' for none  2 how many of its own queue stand before it  3 of how many groups the queues
--       are looked at; of more, these stand for all
local place, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local own = #KEYS - 1

local function of_line(i)
  local queue, turns = KEYS[i], KEYS[i + 1]
  local groups, all, ahead = redis.call('ZRANGE', turns, 0, most - 1), redis.call('ZCARD', turns), 0
  local before_us, has_plain = true, false
  local function add(group, line)
    local waiting = redis.call('LLEN', line)
    if i == own then
      if group == ARGV[1] then
        before_us, waiting = false, 0
      else
        waiting = math.min(waiting, before_us and place + 1 or place)
      end
    end
    ahead = ahead + waiting
  end
  for _, group in ipairs(groups) do
    has_plain = has_plain or group == ''
    add(group, group == '' and queue or queue .. '@' .. group)
  end
  if #groups > 0 then ahead = math.floor(ahead * all / #groups) end
  if not has_plain then add('', queue) end
  return ahead
end

local ahead = 0
for i = 1, #KEYS, 2 do ahead = ahead + of_line(i) end
return ahead
