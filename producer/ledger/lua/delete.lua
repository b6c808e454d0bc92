-- Take away all that stands of a job, unless a worker has it: what a worker writes afterwards would stay. One that was
-- taken for dead over it, and lives, may do so all the same: a mark tells it for a day that the job is to stay away.
-- KEYS  1 RQ hash  2 events  3 result  4 cancel  5 waiters  6 RQ's results  7.. deadlines of the models it may be of
-- ARGV  1 job id  2 takers: no key, as a user of before this script may not touch it  3 prefix and 4 suffix of the
--       lists of taken jobs  5 prefix of RQ's keys  6 prefix of our keys  7 prefix of our queues' names
--       8.. queues that it may be of
-- Returns 'held' and the name of who has it; 'deleted'; 'gone': nothing of it was there.
local id, rq, deleted = ARGV[1], ARGV[5], 0
local holder, runner, status, group, limit, swept_from = unpack(fields_of(
  KEYS[1], 'taken_by', 'worker_name', 'status', 'group_id', 'rate_limit_key', 'swept_from'))

-- An end that a dead worker has left may be in the list of any other, which tells RQ of it.
local names = unless_wrong_type('SMEMBERS', ARGV[2]) or {}
names[#names + 1] = holder or ''
names[#names + 1] = runner or ''
for _, name in ipairs(names) do
  if name ~= '' and is_held(ARGV[3] .. name .. ARGV[4], id) then return {'held', name} end
end
-- A list may be lost where its worker goes on all the same.
if status == 'started' and runner and runner ~= '' and not has_ended(KEYS[2], KEYS[3]) then
  local birth, death = unpack(fields_of(rq .. 'worker:' .. runner, 'birth', 'death'))
  if birth and not death then return {'held', runner} end
end

local function drop(command, ...) deleted = deleted + (unless_wrong_type(command, ...) or 0) end
-- Keys that a job of plain RQ may have named, and that a user of producers may not be allowed to touch.
local function try(...)
  local reply = redis.pcall(...)
  if type(reply) == 'number' then deleted = deleted + reply end
end

local job = rq .. 'job:' .. id
for _, other in ipairs(unless_wrong_type('SMEMBERS', job .. ':dependencies') or {}) do
  drop('SREM', rq .. 'job:' .. other .. ':dependents', id)
end
local runs = unless_wrong_type('ZRANGE', rq .. 'executions:' .. id, 0, -1) or {}
for i = 8, #ARGV do
  local queue = ARGV[i]
  drop('LREM', rq .. 'queue:' .. queue, 0, id)
  local place = place_of(ARGV[6], ARGV[7], queue)
  if place then leave_line(place, rq) end
  for _, registry in ipairs({'deferred:', 'scheduled:', 'ready:', 'finished:', 'failed:', 'canceled:'}) do
    drop('ZREM', rq .. registry .. queue, id)
  end
  for _, run in ipairs(unless_wrong_type('ZRANGE', rq .. 'wip:' .. queue, 0, -1) or {}) do
    if string.sub(run, 1, #id + 1) == id .. ':' then
      runs[#runs + 1] = string.sub(run, #id + 2)
      drop('ZREM', rq .. 'wip:' .. queue, run)
    end
  end
end
for _, run in ipairs(runs) do
  local key = rq .. 'execution:' .. id .. ':' .. run
  local by = fields_of(key, 'worker_name')[1] or runner or ''
  if by ~= '' then drop('SREM', rq .. 'worker:' .. by .. ':executions', id .. ':' .. run) end
  drop('DEL', key)
end
if (group or '') ~= '' then try('SREM', rq .. 'group:' .. group, id) end
if (limit or '') ~= '' then
  for _, registry in ipairs({':rate_limited', ':allowed'}) do try('ZREM', rq .. 'rl:' .. limit .. registry, id) end
end
for i = 7, #KEYS do drop('ZREM', KEYS[i], id) end
tell_waiters(KEYS[5], id, 60) -- they look, and find no job
drop('DEL', job .. ':dependents', job .. ':dependencies', rq .. 'executions:' .. id)
drop('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[6])
if deleted == 0 then return {'gone'} end
if swept_from then redis.pcall('SET', deleted_mark(ARGV[3], id), '', 'EX', 86400) end
return {'deleted'}
