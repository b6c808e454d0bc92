-- Nothing of a file is left.
-- KEYS  1 the owner's files  2 their sizes  3 the file  4 its parts
-- ARGV  1 its id
-- Returns whether it was there, whole or not.
forget_files(KEYS[1], KEYS[2])
local was_there = redis.call('ZREM', KEYS[1], ARGV[1])
forget_size(KEYS[2], ARGV[1])
redis.call('UNLINK', KEYS[3], KEYS[4])
return was_there
