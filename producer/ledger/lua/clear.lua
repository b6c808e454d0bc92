-- Begin the life of a job anew, for one that has ended and was enqueued again. Only while it is ours: after a sweep,
-- the stream may be that of another worker's attempt. The stream keeps its last id, so that nothing older gets in.
-- KEYS  1 our list of taken jobs  2 events  3 result  4 cancel          ARGV  1 job id
-- Returns whether the job is ours.
if not is_held(KEYS[1], ARGV[1]) then return 0 end
redis.call('XTRIM', KEYS[2], 'MAXLEN', 0)
redis.call('DEL', KEYS[3], KEYS[4])
return 1
