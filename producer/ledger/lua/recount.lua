-- Strike out jobs that no worker has any more from those that run: whoever let go of one has died before it said so.
-- KEYS  1 the jobs that run
-- ARGV  1 prefix of RQ's keys  2 prefix and 3 suffix of the lists of taken jobs  4 how many at most
strike_out(KEYS[1], redis.call('ZRANGE', KEYS[1], 0, ARGV[4] - 1), ARGV[1], ARGV[2], ARGV[3])
