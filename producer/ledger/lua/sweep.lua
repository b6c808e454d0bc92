-- Put back what a dead worker has left, in one step that only one sweeper can make, and forget the worker.
-- KEYS  1 deadlines of the workers' beats  2 the model's ring  3 takers  4 its list of taken jobs  5 its record
-- ARGV  1 its name among the takers  2 the worker's name  3 how it is known to be dead: exited | overdue | gone | expired
--       4 for gone: its entry in the ring  5 now, RQ's form  6 prefix of our keys  7 prefix of RQ's keys
--       8 prefix of our queues' names  9 queue for a job that names none of ours  10 how many jobs at most
--       11 the worker's name and model, as it beats
-- Returns {{ids that are back in their queues}, {ids that have ended, and whose end RQ is to be told}}; nothing where
-- the worker has come back.
local name, worker = ARGV[1], ARGV[2]
local function is_dead()
  if ARGV[3] == 'exited' then return true end -- for good: no other process ever has its name
  if ARGV[3] == 'gone' then return redis.call('ZSCORE', KEYS[2], ARGV[4]) ~= false end
  local deadline = redis.call('ZSCORE', KEYS[1], ARGV[11])
  if ARGV[3] == 'overdue' then return not deadline or tonumber(deadline) <= now_ms() end
  -- A worker of an earlier version beats with its record alone. One that never expires is no beat: RQ wrote into it
  -- after its time was over.
  return not deadline and redis.call('PTTL', KEYS[5]) <= 0
end
if not is_dead() then return false end

-- What RQ shows as a run of the job by the dead. A job whose hash is gone may have come from any queue of the model.
local function drop_runs(id, origin)
  local origins = origin and {origin} or {ARGV[9], ARGV[9] .. '.high', ARGV[9] .. '.low'}
  for _, run in ipairs(unless_wrong_type('ZRANGE', ARGV[7] .. 'executions:' .. id, 0, -1) or {}) do
    local key = ARGV[7] .. 'execution:' .. id .. ':' .. run
    local by = fields_of(key, 'worker_name')[1] or ''
    if by == '' or by == worker then
      redis.call('DEL', key)
      redis.call('ZREM', ARGV[7] .. 'executions:' .. id, run)
      for _, each in ipairs(origins) do unless_wrong_type('ZREM', ARGV[7] .. 'wip:' .. each, id .. ':' .. run) end
      unless_wrong_type('SREM', ARGV[7] .. 'worker:' .. worker .. ':executions', id .. ':' .. run)
    end
  end
end

local back, ended = {}, {}
local held = unless_wrong_type('LRANGE', KEYS[4], 0, ARGV[10] - 1)
for _, id in ipairs(held or {}) do
  local own, job = ARGV[6] .. ':{' .. id .. '}:', ARGV[7] .. 'job:' .. id
  local kind = redis.call('TYPE', job).ok
  local over = #id <= 128 and has_ended(own .. 'events', own .. 'result')
  if kind == 'hash' then redis.call('HSET', job, 'swept_from', worker) end -- it may wake up, also after a deletion
  if over and kind == 'hash' then
    ended[#ended + 1] = id
  elseif over or name ~= worker then
    redis.call('LREM', KEYS[4], 1, id) -- its time is over, and nobody can be told of its end any more
    drop_runs(id)
  else
    local from, runner, started_at, parked_by = unpack(fields_of(
      job, 'origin', 'worker_name', 'started_at', 'parked_by'))
    local origin = from
    if not origin or string.sub(origin, 1, #ARGV[8]) ~= ARGV[8] then origin = ARGV[9] end
    to_front(KEYS[4], ARGV[7] .. 'queue:' .. origin, id) -- without a hash, too: whoever takes it refuses it
    local place = place_of(ARGV[6], ARGV[8], origin)
    line_up_first(place)
    let_go(place, ARGV[7], id)
    drop_runs(id, from and origin)
    if kind == 'hash' then
      -- A death counts only for the job that ran in the dead, and for none that was parked there. What RQ has made of
      -- it meanwhile changes nothing.
      if runner == worker and parked_by ~= worker then count_death(job, worker) end
      -- Where RQ had not heard of the start: the wait for a worker was over all the same, and a deadline was met.
      if not started_at or started_at == '' then redis.call('HSET', job, 'started_at', ARGV[5]) end
      show_queued(job, ARGV[7] .. 'failed:' .. origin, id)
    end
    back[#back + 1] = id
  end
end
-- The dead may wake up and take a job between a look and a removal: in one step with the look. What is no list tells
-- of no jobs, and must not keep the dead among the living.
if not held or redis.call('EXISTS', KEYS[4]) == 0 then
  redis.call('SREM', KEYS[3], name)
  if name == worker then
    redis.call('ZREM', KEYS[1], ARGV[11])
    leave_ring(KEYS[2], worker)
  end
end
return {back, ended}
