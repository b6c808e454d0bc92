"""What an error of Redis means: as it comes off the wire, and as an older server quotes it out of a script."""

import pytest
import redis
from redis import exceptions
from redis._parsers.base import BaseParser

from producer.broker.meaning import is_forbidden_key, is_read_only, is_unknown_command, meaning

IN_A_SCRIPT = "The user executing the script can't"
OUTAGE = [
    "LOADING Redis is loading the dataset in memory",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
    "NOREPLICAS Not enough good replicas to write.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "ERR max number of clients reached",
    "ERR max number of clients + cluster connections reached",
    "ERR Error running script: Script killed by user with SCRIPT KILL.",
    "NOSCRIPT No matching script. Please use EVAL.",
]
UNFIT = [
    "ERR unknown command 'LMOVE', with args beginning with: 'a' 'b'",
    "ERR unknown command `BLMOVE`, with args beginning with: ",
    "ERR wrong number of arguments for 'expire' command",
    "ERR syntax error",
    "NOPERM User worker has no permissions to run the 'hset' command",
    "NOPERM No permissions to access a key",
    f"ERR {IN_A_SCRIPT} run this command or subcommand",
    f"ERR {IN_A_SCRIPT} access at least one of the keys mentioned in the command arguments",
    f"ERR {IN_A_SCRIPT} publish to the channel mentioned in the command",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "ERR invalid password",
    "ERR AUTH <password> called without any password configured for the default user",
    "ERR Client sent AUTH, but no password is set",
    "READONLY You can't write against a read only replica.",
    "MOVED 3999 127.0.0.1:6381",
    "ASK 3999 127.0.0.1:6381",
    "CROSSSLOT Keys in request don't hash to the same slot",
    "ERR Script attempted to access a non local key in a cluster node",
    "ERR DB index is out of range",
    "ERR SELECT is not allowed in cluster mode",
    "NOPROTO unsupported protocol version",
    "DENIED Redis is running in protected mode because protected mode is enabled",
    "ERR This Redis command is not allowed from script",
]
BROKEN = [
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "ERR value is not an integer or out of range",
    "ERR hash value is not an integer",
    "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
    "ERR The ID specified in XADD is equal or smaller than the target stream top item",
    "BUSYGROUP Consumer Group name already exists",
    "BUSYKEY Target key name already exists.",
    "EXECABORT Transaction discarded because of previous errors.",
    "ERR index out of range",
]
CASES = [
    *((text, "outage") for text in OUTAGE),
    *((text, "unfit") for text in UNFIT),
    *((text, "broken") for text in BROKEN),
]


def off_the_wire(text: str) -> redis.RedisError:
    """As redis-py reads it: it has classes for some, and takes their codes away."""
    return BaseParser.parse_error(text)


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_as_a_server_says_it(text, expected):
    assert meaning(off_the_wire(text)) == expected


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_out_of_a_script_on_an_older_server(text, expected):
    """It quotes the error within one of its own."""
    quoted = f"ERR Error running script (call to f_6b1bf486): @user_script:12: @user_script: 12: -{text}"
    error = off_the_wire(quoted)
    assert type(error) is exceptions.ResponseError
    assert meaning(error) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [case for case in CASES if not case[0].startswith(("MOVED", "ASK"))]
)
def test_out_of_a_script_on_a_newer_one(text, expected):
    """It keeps the code in front. A cluster's redirections do not come out of a script."""
    error = off_the_wire(f"{text} script: 6b1bf486c81ceb7edf3c093f4c48582e38c0e791, on @user_script:12.")
    assert meaning(error) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.ConnectionError("Error 111 connecting to 127.0.0.1:6379. Connection refused."), "outage"),
        (exceptions.ConnectionError("Connection closed by server."), "outage"),
        (exceptions.TimeoutError("Timeout reading from socket"), "outage"),
        (exceptions.MaxConnectionsError("Too many connections"), "outage"),
        (redis.sentinel.MasterNotFoundError("No master found for 'mymaster'"), "outage"),
        (exceptions.WatchError("Watched variable changed."), "outage"),
        (exceptions.AuthenticationError("invalid username-password pair or user is disabled."), "unfit"),
        (exceptions.ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"), "unfit"),
        (exceptions.ConnectionError("[SSL: WRONG_VERSION_NUMBER] wrong version number"), "unfit"),
        (exceptions.InvalidResponse("Protocol Error: b'\\x15'"), "unfit"),
        (exceptions.DataError("Invalid input of type: 'NoneType'"), "broken"),
    ],
)
def test_what_redis_py_says_itself(error, expected):
    assert meaning(error) == expected


@pytest.mark.parametrize("held", ["LOADING", "READONLY", "NOPERM", "WRONGTYPE", "of pipeline caused error: OOM"])
def test_what_a_command_holds_says_nothing_of_its_error(held):
    """A pipeline's error quotes the command, and a job may hold any word."""
    error = exceptions.ResponseError(
        f"Command # 1 (HSET rq:job:a data {held}) of pipeline caused error: value is not an integer"
    )
    assert meaning(error) == "broken"


def test_a_pipeline_keeps_what_its_error_says():
    error = exceptions.ResponseError("Command # 2 (HSET a b c) of pipeline caused error: OOM command not allowed")
    assert meaning(error) == "outage"


def test_finer_questions():
    assert is_read_only(off_the_wire("READONLY You can't write against a read only replica."))
    assert is_read_only(exceptions.ResponseError("Error running script: -READONLY You can't write"))
    assert not is_read_only(off_the_wire("NOPERM no"))
    assert is_unknown_command(off_the_wire("ERR unknown command 'LMOVE', with args beginning with: "))
    assert not is_unknown_command(off_the_wire("ERR index out of range"))
    for text in (
        "No permissions to access a key",
        "this user has no permissions to access one of the keys used as",
    ):
        assert is_forbidden_key(off_the_wire(f"NOPERM {text} arguments"))
    assert not is_forbidden_key(off_the_wire("NOPERM this user has no permissions to run the 'hset' command"))
    # Redis 7.0 has words of its own for a script.
    assert is_forbidden_key(
        off_the_wire(f"ERR {IN_A_SCRIPT} access at least one of the keys mentioned in the command")
    )
    assert not is_forbidden_key(off_the_wire(f"ERR {IN_A_SCRIPT} run this command or subcommand"))
