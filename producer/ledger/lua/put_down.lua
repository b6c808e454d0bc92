-- A job that has ended here, or is somebody else's, leaves our list.
-- KEYS  1 our list of taken jobs  2 RQ hash
-- ARGV  1 job id  2 our name  3 its queue, '' where only its hash knows that  4 prefix of our keys  5 prefix of our
--       queues' names  6 prefix of RQ's keys
redis.call('LREM', KEYS[1], 1, ARGV[1])
local holder, origin = unpack(fields_of(KEYS[2], 'taken_by', 'origin'))
if holder == ARGV[2] then redis.call('HDEL', KEYS[2], 'taken_by') end
local place = place_of(ARGV[4], ARGV[5], ARGV[3] ~= '' and ARGV[3] or origin or '')
if place then let_go(place, ARGV[6], ARGV[1]) end
