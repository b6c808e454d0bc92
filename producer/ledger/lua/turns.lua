-- Prepended, behind the guards, to the scripts that know of groups: which of them wait, and whose turn it is.
--
-- A line is a model's jobs of one priority, as `tiny.high`. Those of a group wait in a queue of its own, LINE@GROUP,
-- and the groups that wait stand in the line's turns: the lowest score is served next, and goes behind the last then.
-- The jobs without a group are the group ''. RQ puts them into their queue without a word here, so that they are
-- looked for at each take; they have a turn only beside others.

local MOST_TURNS = 2 ^ 52 -- beyond, a score is not sure to be below the next

-- The names that go with a queue's; nil for a queue of somebody else's.
-- prefix: of our keys.  before: what stands before a model's name in that of its queue.
local function place_of(prefix, before, queue)
  if string.sub(queue, 1, #before) ~= before then return nil end
  local rest = string.sub(queue, #before + 1)
  local line, group = string.match(rest, '^([^@]*)@(.+)$')
  line = line or rest
  local model = string.match(line, '^(.*)%.high$') or string.match(line, '^(.*)%.low$') or line
  local place = {queue = queue, group = group or '', turns = prefix .. ':{turns:' .. line .. '}'}
  for _, name in ipairs({'bell', 'running', 'later'}) do place[name] = prefix .. ':{' .. name .. ':' .. model .. '}' end
  return place
end

-- Wakes idle workers, and goes on to do so until a take finds that no group waits.
local function ring(bell)
  if redis.call('EXISTS', bell) == 0 then redis.call('RPUSH', bell, 1) end
end

local function behind_all(turns)
  local last = tonumber(redis.call('ZRANGE', turns, -1, -1, 'WITHSCORES')[2]) or 0
  if last < MOST_TURNS then return last + 1 end
  local groups = redis.call('ZRANGE', turns, 0, -1)
  for turn, group in ipairs(groups) do redis.call('ZADD', turns, turn, group) end
  return #groups + 1
end

-- A group's jobs wait: its turn comes behind those of the others, unless it has one.
local function line_up(turns, bell, group)
  redis.call('ZADD', turns, 'NX', behind_all(turns), group)
  ring(bell)
end

-- A job stands at the front of its queue: its turn is the next. Whoever put it there lets go of it, which rings.
local function line_up_first(place)
  local first = redis.call('ZRANGE', place.turns, 0, 0, 'WITHSCORES')
  if place.group == '' and not first[1] then return end
  redis.call('ZADD', place.turns, math.max(tonumber(first[2]) or 1, -MOST_TURNS) - 1, place.group)
end

-- A job has left its group's queue.
local function leave_line(place, rq)
  if place.group ~= '' and redis.call('EXISTS', rq .. 'queue:' .. place.queue) == 0 then
    redis.call('ZREM', place.turns, place.group)
  end
end

-- What RQ has put into a group's queue, or among its scheduled jobs, without a word here.
local function look_after(place, rq)
  if redis.call('EXISTS', rq .. 'queue:' .. place.queue) == 1 then line_up(place.turns, place.bell, place.group) end
  local first_at = redis.call('ZRANGE', rq .. 'scheduled:' .. place.queue, 0, 0, 'WITHSCORES')[2]
  if first_at then
    redis.call('ZADD', place.later, first_at, place.queue)
  else
    redis.call('ZREM', place.later, place.queue)
  end
end

-- A job is with no worker any more: another one of its group may run. RQ keeps it now, or it waits again: its queue,
-- which may have seemed idle meanwhile, is one of RQ's.
local function let_go(place, rq, job_id)
  local was_counted = redis.call('ZREM', place.running, place.group .. ' ' .. job_id)
  if place.group ~= '' then
    redis.call('SADD', rq .. 'queues', rq .. 'queue:' .. place.queue)
    look_after(place, rq)
  elseif was_counted == 1 and redis.call('EXISTS', rq .. 'queue:' .. place.queue) == 1 then
    ring(place.bell)
  end
end

-- Whether a job is in the list of the worker that its hash names.
local function is_with_a_worker(job_id, rq, taken_prefix, taken_suffix)
  local holder = fields_of(rq .. 'job:' .. job_id, 'taken_by')[1] or ''
  return holder ~= '' and is_held(taken_prefix .. holder .. taken_suffix, job_id)
end

-- Strikes out those of some entries `GROUP JOB` whose job no worker has: who let go of it has died before it said so.
-- Returns how many are left.
local function strike_out(running, entries, ...)
  local left = #entries
  for _, entry in ipairs(entries) do
    if not is_with_a_worker(string.match(entry, ' (.*)$') or '', ...) then
      redis.call('ZREM', running, entry)
      left = left - 1
    end
  end
  return left
end

-- Whether so many jobs of a group run, or more.
local function runs_at_limit(running, group, limit, ...)
  local first, behind = '[' .. group .. ' ', '(' .. group .. '!'
  if redis.call('ZLEXCOUNT', running, first, behind) < limit then return false end
  return strike_out(running, redis.call('ZRANGEBYLEX', running, first, behind), ...) >= limit
end
