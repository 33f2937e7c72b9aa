"""ElectLeaders: the leaders are what they should be, always.

* A leader is computed from the live workers (rendezvous hashing) and only a routing hint: there is nothing to elect.
  Every existing partition answers ELECTION_NOT_NEEDED; Kafka's tools count that as done.
* No partitions named means all; Kafka then answers only those with something to say, so none.
* v1 adds the election type (0 preferred, 1 unclean; others are INVALID_REQUEST), v2 is flexible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redbroker.broker.admin import fresh
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=43,
    name="ElectLeaders",
    versions="0-2",
    flexible="2+",
    request="""
        election_type    i8    1+
        topic_partitions []    0+  ?0+
            topic        str
            partitions   []i32
        timeout_ms       i32   0+  =60000
    """,
    response="""
        throttle_time_ms i32
        error_code       i16   1+
        replica_election_results []
            topic        str
            partition_result []
                partition_id i32
                error_code i16
                error_message str 0+ ?0+
    """,
)
Response, TopicResult = API.Response, API.response.struct("replica_election_results")
PartitionResult = API.response.struct("replica_election_results.partition_result")
PREFERRED, UNCLEAN = 0, 1


@API
async def elect_leaders(request: Any, ctx: Context) -> Any:
    if request.election_type not in (PREFERRED, UNCLEAN):
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"{request.election_type} is not an election type.")
    await fresh(ctx)
    return Response(replica_election_results=results(request, lambda name, number: verdict(name, number, ctx)))


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    return Response(error_code=error.code, replica_election_results=results(request, lambda name, number: error.code))


def results(request: Any, code_of: Callable[[str, int], ErrorCode]) -> list[Any]:
    """One result for each partition asked. No sentences: a code of two bytes cannot blow up a large request."""
    return [
        TopicResult(
            topic=wanted.topic,
            partition_result=[
                PartitionResult(partition_id=number, error_code=code_of(wanted.topic, number), error_message=None)
                for number in wanted.partitions
            ],
        )
        for wanted in request.topic_partitions or ()
    ]


def verdict(name: str, number: int, ctx: Context) -> ErrorCode:
    """What there is to say of one partition."""
    topic = ctx.engine.topics.get(name)
    if topic is None or not 0 <= number < topic.partitions:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return ErrorCode.ELECTION_NOT_NEEDED
