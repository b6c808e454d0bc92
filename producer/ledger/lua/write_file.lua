-- A part of an owner's file, which may be sent again: it is what stands there then. With the last the file is whole.
-- KEYS  1 the owner's files, by the ms on Redis' clock until which they are kept  2 their sizes  3 the file
--       4 its parts  5 who runs which batch; only for a file that a batch writes
-- ARGV  1 id of the file  2 number of the part  3 its bytes  4 how long the file is kept from now on, ms
--       5 bytes that a file may have  6 that all of the owner's may have  7 files that he may have; 0: any number
--       8 what is to be known of it once it is whole; '' where more is to come
--       9 the batch  10 who runs it
-- Returns 'ok', or why nothing was done: 'file_too_large', 'no_room', 'too_many', 'gone', 'lost'.
if KEYS[5] and redis.call('HGET', KEYS[5], ARGV[9]) ~= ARGV[10] then return 'lost' end
forget_files(KEYS[1], KEYS[2])
local now, ttl = now_ms(), tonumber(ARGV[4])
local function within(count, limit) return limit == '0' or count <= tonumber(limit) end

local is_new = redis.call('EXISTS', KEYS[4]) == 0
if is_new and ARGV[2] ~= '0' then return 'gone' end
if is_new and not within(redis.call('ZCARD', KEYS[1]) + 1, ARGV[7]) then return 'too_many' end
local more = #ARGV[3] - redis.call('HSTRLEN', KEYS[4], ARGV[2])
local size = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or 0) + more
if not within(size, ARGV[5]) then return 'file_too_large' end
local total = tonumber(redis.call('HGET', KEYS[2], '') or 0) + more
if not within(total, ARGV[6]) then return 'no_room' end

redis.call('HSET', KEYS[4], ARGV[2], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], size, '', total)
redis.call('ZADD', KEYS[1], now + ttl, ARGV[1])
if ARGV[8] ~= '' then redis.call('HSET', KEYS[3], 'record', ARGV[8]) end
keep_file(KEYS, ttl)
return 'ok'
