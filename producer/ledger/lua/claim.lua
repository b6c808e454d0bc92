-- One sweeper alone tells RQ of an end that the dead have left. Should it die over that, its own list tells the next.
-- KEYS  1 list of the dead worker  2 our list of ends to settle  3 takers
-- ARGV  1 job id  2 our name among the takers for that list  3 ttl, s
if not is_held(KEYS[1], ARGV[1]) then return 0 end
redis.call('RPUSH', KEYS[2], ARGV[1]) -- first, as in to_front
redis.call('LREM', KEYS[1], 1, ARGV[1])
redis.call('SADD', KEYS[3], ARGV[2])
for _, key in ipairs({KEYS[2], KEYS[3]}) do redis.call('EXPIRE', key, ARGV[3]) end
return 1
