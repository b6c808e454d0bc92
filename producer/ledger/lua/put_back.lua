-- Put a job that has not ended at the front of its queue, while it is ours. The next turn is its group's.
-- KEYS  1 our list of taken jobs  2 RQ hash  3 queue  4 RQ's failed registry
-- ARGV  1 job id  2 '1' if the engine died over it, else ''  3 the queue's name  4 prefix of our keys  5 prefix of our
--       queues' names  6 prefix of RQ's keys
-- Returns 0 where a sweep that took us for dead has put it back already.
if not is_held(KEYS[1], ARGV[1]) then return 0 end
to_front(KEYS[1], KEYS[3], ARGV[1]) -- without a hash, too: whoever takes it refuses it
if redis.call('TYPE', KEYS[2]).ok == 'hash' then
  if ARGV[2] ~= '' then count_death(KEYS[2], '') end -- no worker's, which could come back
  show_queued(KEYS[2], KEYS[4], ARGV[1])
end
local place = place_of(ARGV[4], ARGV[5], ARGV[3])
if place then
  line_up_first(place)
  let_go(place, ARGV[6], ARGV[1])
end
return 1
