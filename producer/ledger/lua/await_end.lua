-- Have a job's end announced to whoever waits for it, unless it has ended by now. In one step: no end falls between.
-- KEYS  1 events  2 result  3 waiters  4 RQ hash          ARGV  1 wake stream of who waits  2 ttl, s
-- Returns the id and fields of the terminal event, where there is one already; 'gone' where there is no job: what was
-- deleted is not to be waited for by a key of its own.
if has_ended(KEYS[1], KEYS[2]) then return redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1] end
if redis.call('EXISTS', KEYS[1], KEYS[4]) == 0 then return 'gone' end
-- A replica refuses the two, and so do users of before this key: then the end is found by looking, a little later.
redis.pcall('SADD', KEYS[3], ARGV[1])
redis.pcall('EXPIRE', KEYS[3], ARGV[2])
return false
