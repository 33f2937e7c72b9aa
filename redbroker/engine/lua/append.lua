-- append: add record batches at the end of a partition's log. The heart of RedBroker.
--
-- Each batch is stored as the bytes the producer sent, under the ID <leader epoch>-<last offset>: offsets are dense,
-- IDs only grow. One call takes the batches of all producers that were waiting, so what a partition costs is paid once.
-- A refusal of the partition has changed nothing; a refused batch (its answer is an error name) has changed nothing
-- and leaves the others alone. A duplicate of one of an idempotent producer's last five batches is answered with its
-- first offset, and still writes a counter: WAIT covers the connection's last write, so an answer without a write
-- would be acknowledged by replicas that never saw the batch. Where there are replicas, the high watermark the caller
-- has proved (its epoch, "<offset> <written>") is kept beside the end.
--
-- KEYS   log state epochs producers times tail
-- ARGV   topic_id copies:int expiration_s:int producers_max:int replicas:int proved_in:int proved alone:int
-- REST   batch
-- GIVES  log_start leader_epoch next written rid (empty without replicas), then per batch its first offset, {first offset}
--        of a duplicate, or a name
-- FAILS  UNKNOWN_TOPIC_OR_PARTITION UNKNOWN_TOPIC_ID NOT_ENOUGH_REPLICAS
-- USES   refuse leader replicas producers

local field = redis.call('HMGET', state, 'id', 'rid', 'epoch', 'next', 'start', 'written', 'batches', 'largest', 'time',
  'bumped')
if not field[1] then return refuse('UNKNOWN_TOPIC_OR_PARTITION', 'partition is not open') end
if field[1] ~= topic_id then return refuse('UNKNOWN_TOPIC_ID', 'topic was deleted and made again') end

local info = replication()
if copies > 1 and good_replicas(info) + 1 < copies then
  return refuse('NOT_ENOUGH_REPLICAS', 'fewer replicas are in step than min.insync.replicas asks for')
end
local rid = replication_id(info)
if rid ~= field[2] then redis.call('HSET', state, 'next', field[4]) end -- refused when memory is full
local epoch, wait = leader(state, epochs, rid, field[2], tonumber(field[3]), field[4], field[10], replicas)
if wait then return wait end

local next_offset, before, largest, time = tonumber(field[4]), tonumber(field[6]), tonumber(field[8]), tonumber(field[9])
local written, appended, duplicates, time_at, now = before, 0, 0, nil, nil
local answers = {}

-- From byte 23 of a batch: lastOffsetDelta, firstTimestamp, maxTimestamp, producerId, producerEpoch, baseSequence.
-- The producer id is read as two halves: Lua's numbers are exact to 2^53 only. A negative one is no producer's.
local HEADER, NO_PRODUCER_FROM = '>i4i8i8I4I4hi4', 2147483648

for i = 9, #ARGV do
  local batch = ARGV[i]
  local delta, _, max_timestamp, high, low, producer_epoch, first_sequence = struct.unpack(HEADER, batch, 24)
  local last = next_offset + delta
  local verdict, window, producer, last_sequence, known = 'next'
  if high < NO_PRODUCER_FROM then
    now = now or redis.call('TIME')[1]
    producer = string.format('%08x%08x', high, low)
    last_sequence = (first_sequence + delta) % SEQUENCES
    known = redis.call('HGET', producers, producer)
    verdict, window = judge(known, producer_epoch, first_sequence, last_sequence, alone)
  end
  if verdict == 'next' then
    redis.call('XADD', log, string.format('%d-%d', epoch, last), 'b', batch)
    if producer then
      if not known then make_room(producers, tonumber(now), expiration_s, producers_max) end
      redis.call('HSET', producers, producer,
        remember(producer_epoch, now, window, first_sequence, last_sequence, next_offset))
    end
    answers[#answers + 1] = next_offset
    next_offset, written, appended = last + 1, written + #batch, appended + 1
    if #batch > largest then largest = #batch end
    if max_timestamp > time then time, time_at = max_timestamp, last end
  elseif verdict == 'duplicate' then
    duplicates = duplicates + 1
    answers[#answers + 1] = {window}
  else
    answers[#answers + 1] = verdict
  end
end

if duplicates > 0 then redis.call('HINCRBY', state, 'duplicates', duplicates) end
if appended > 0 then
  local batches = tonumber(field[7]) + appended
  if proved_in == epoch then
    redis.call('HSET', state, 'next', next_offset, 'written', written, 'batches', batches, 'largest', largest,
      'confirmed', proved)
  else
    redis.call('HSET', state, 'next', next_offset, 'written', written, 'batches', batches, 'largest', largest)
  end
  if time_at then redis.call('HSET', state, 'time', time, 'time_at', time_at) end
  if math.floor(batches / 64) ~= math.floor((batches - appended) / 64)
    or math.floor(written / 1048576) ~= math.floor(before / 1048576) then
    redis.call('ZADD', times, time, string.format('%016d:%d', next_offset - 1, written))
  end
  redis.call('SPUBLISH', tail, string.format('%d %d', next_offset, written))
end
return {tonumber(field[5]), epoch, next_offset, written, replicas > 0 and rid or '', unpack(answers)}
