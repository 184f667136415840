"""The reader of XES logs reads what is there, says what is missing and refuses what is no log."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from replay.xes import NO_ACTIVITY, LogEvent, XesError, in_timestamp_order, read

pytestmark = pytest.mark.any_database

REAL_LOGS = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"

LOG = """<?xml version="1.0" encoding="UTF-8"?>
<log xes.version="1.0" xmlns="http://www.xes-standard.org/">
  <global scope="event"><string key="concept:name" value="UNKNOWN"/></global>
  <string key="concept:name" value="the log's own name"/>
  {traces}
</log>
"""


def event(activity: str, timestamp: str = "2024-01-01T00:00:00Z", more: str = "") -> str:
    return (
        f'<event><string key="concept:name" value="{activity}"/>'
        f'<date key="time:timestamp" value="{timestamp}"/>{more}</event>'
    )


def trace(case: str, *events: str) -> str:
    return f'<trace><string key="concept:name" value="{case}"/>{"".join(events)}</trace>'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log.xes"


def read_text(file: Path, text: str) -> list[LogEvent]:
    file.write_text(text, encoding="utf-8")
    return list(read(file))


def read_traces(file: Path, *traces: str) -> list[LogEvent]:
    return read_text(file, LOG.format(traces="".join(traces)))


def test_events_come_in_the_order_of_the_file(file: Path) -> None:
    """Each event carries its case, its position in it, its activity, transition and timestamp."""
    complete = '<string key="lifecycle:transition" value="COMPLETE"/>'

    events = read_traces(
        file, trace("a", event("open", more=complete), event("close")), trace("b", event("open"))
    )

    moment = datetime(2024, 1, 1, tzinfo=UTC)
    assert events == [
        LogEvent("a", 0, "open", "COMPLETE", moment),
        LogEvent("a", 1, "close", None, moment),
        LogEvent("b", 0, "open", None, moment),
    ]


def test_gzip_is_known_by_its_content(file: Path) -> None:
    """A gzipped log is read whatever the file is called."""
    file.write_bytes(gzip.compress(LOG.format(traces=trace("a", event("open"))).encode()))

    assert [event.activity for event in read(file)] == ["open"]


@pytest.mark.parametrize(
    ("opening", "tag"),
    [("<log>", "{}"), ('<x:log xmlns:x="http://www.xes-standard.org/">', "x:{}")],
    ids=["without a namespace", "with a prefix"],
)
def test_namespaces_make_no_difference(file: Path, opening: str, tag: str) -> None:
    """A log is read without a namespace, with a default one and with a prefix."""
    text = opening
    for name in ("trace", "event"):
        text += f'<{tag.format(name)}><{tag.format("string")} key="concept:name" value="{name}"/>'
    for name in ("event", "trace", "log"):
        text += f"</{tag.format(name)}>"

    assert read_text(file, text) == [LogEvent("trace", 0, "event", None, None)]


def test_attributes_of_attributes_are_not_the_events(file: Path) -> None:
    """Names nested inside other attributes name neither the event nor its case."""
    nested = '<list key="parts"><string key="concept:name" value="wheel"/></list>'

    events = read_traces(file, f"<trace>{nested}{trace('a', event('open', more=nested))[7:]}")

    assert [(event.case, event.activity) for event in events] == [("a", "open")]


def test_the_name_of_a_case_may_come_last(file: Path) -> None:
    """The name of a case counts wherever it stands in the trace."""
    name = '<string key="concept:name" value="a"/>'

    assert read_traces(file, f"<trace>{event('open')}{name}</trace>")[0].case == "a"


def test_a_case_in_two_traces_goes_on_counting(file: Path) -> None:
    """No two events of a log share case and position."""
    events = read_traces(
        file, trace("a", event("x"), event("y")), trace("b", event("x")), trace("a", event("z"))
    )

    assert [(event.case, event.position) for event in events] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("a", 2),
    ]


def test_what_has_no_name_says_so(file: Path) -> None:
    """A trace without a name is told by its number, an event without one has a placeholder."""
    events = read_traces(file, trace("a", "<event/>"), f"<trace>{event('open')}</trace>")

    assert events[0] == LogEvent("a", 0, NO_ACTIVITY, None, None)
    assert events[1].case == "(trace 2 without a name)"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-01-02T03:04:05", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2024-01-02T03:04:05Z", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (
            "2024-01-02T03:04:05.678+01:00",
            datetime(2024, 1, 2, 3, 4, 5, 678000, tzinfo=timezone(timedelta(hours=1))),
        ),
        (
            "2024-01-02T03:04:05.678-0530",
            datetime(2024, 1, 2, 3, 4, 5, 678000, timezone(timedelta(hours=-5, minutes=-30))),
        ),
        ("2024-01-02T03:04:05.1234567Z", datetime(2024, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)),
    ],
)
def test_timestamps_have_a_timezone(file: Path, text: str, moment: datetime) -> None:
    """The usual ISO 8601 forms are understood; without an offset they are UTC."""
    [read_event] = read_traces(file, trace("a", event("open", text)))

    assert read_event.timestamp == moment
    assert read_event.timestamp.utcoffset() == moment.utcoffset()


def test_an_empty_log_yields_nothing(file: Path) -> None:
    """A log without traces, and a trace without events, are no errors."""
    assert read_traces(file) == []
    assert read_traces(file, trace("a")) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1: no well-formed XML: no element found"),
        ("case;activity\n1;open\n", "line 1: no well-formed XML"),
        ("<?xml version='1.0'?>\n<html/>", "line 2: no XES log: the outermost element is <html>"),
        ("<log>\n<trace>\n</log>", "line 3: no well-formed XML: mismatched tag"),
        ("<log>\n<trace>\n", "line 3: no well-formed XML: no element found"),
        (
            LOG.format(traces=trace("a", event("open", "yesterday"))),
            "line 5: 'yesterday' is no timestamp",
        ),
        (
            "<!DOCTYPE log [\n<!ENTITY ha 'haha'>]>\n<log/>",
            "line 2: a log has no use for entities of its own, and this one declares 'ha'",
        ),
    ],
)
def test_what_is_no_log_is_refused_with_file_and_line(file: Path, text: str, reason: str) -> None:
    """The error says which file, which line and what is wrong there."""
    with pytest.raises(XesError) as error:
        read_text(file, text)

    assert f"{file}, {reason}" in str(error.value)


def test_a_truncated_gzip_file_is_refused(file: Path) -> None:
    """A download that broke off is an error, not a shorter log."""
    whole = gzip.compress(LOG.format(traces=trace("a", event("open")) * 1000).encode())
    file.write_bytes(whole[:-20])

    with pytest.raises(XesError, match="damaged or not whole") as error:
        list(read(file))

    assert str(file) in str(error.value)


def test_an_external_entity_is_not_fetched(file: Path, tmp_path: Path) -> None:
    """A log cannot make its reader open another file."""
    secret = tmp_path / "secret"
    secret.write_text("secret")

    with pytest.raises(XesError, match="declares 'e'"):
        read_text(file, f"<!DOCTYPE log [<!ENTITY e SYSTEM '{secret.as_uri()}'>]><log>&e;</log>")


def at(case: str, position: int, minute: int | None) -> LogEvent:
    moment = None if minute is None else datetime(2024, 1, 1, 0, minute, tzinfo=UTC)
    return LogEvent(case, position, "x", None, moment)


def in_order(*events: LogEvent) -> list[tuple[str, int]]:
    return [(event.case, event.position) for event in in_timestamp_order(events)]


def test_cases_are_interleaved_by_timestamp() -> None:
    """Events of all cases come by timestamp; those of one moment in the order of the file."""
    events = at("a", 0, 1), at("a", 1, 5), at("b", 0, 1), at("b", 1, 3)

    assert in_order(*events) == [("a", 0), ("b", 0), ("b", 1), ("a", 1)]


def test_an_event_without_a_timestamp_takes_that_of_its_predecessor_in_the_case() -> None:
    events = [at("a", 0, 2), at("a", 1, None), at("a", 2, 4)]
    others = [at("b", 0, None), at("b", 1, 3), at("c", 0, None)]

    assert in_order(*events, *others) == [
        ("c", 0),
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("b", 1),
        ("a", 2),
    ]


def test_events_of_a_case_that_stand_in_another_order_are_sorted_by_their_timestamps() -> None:
    events = [at("a", 0, 5), at("a", 1, 1), at("a", 2, 1), at("b", 0, 3)]

    assert in_order(*events) == [("a", 1), ("a", 2), ("b", 0), ("a", 0)]


def test_a_trace_without_events_is_a_case_as_well(file: Path) -> None:
    file.write_text(
        '<log><trace><string key="concept:name" value="empty"/></trace>'
        '<trace><string key="concept:name" value="full"/><event/></trace></log>'
    )
    cases: set[str] = set()

    events = list(read(file, cases=cases))

    assert [event.case for event in events] == ["full"]
    assert cases == {"empty", "full"}


@pytest.mark.skipif(not REAL_LOGS.is_dir(), reason="the real logs are not beside the repository")
@pytest.mark.parametrize(
    ("name", "cases", "events", "complete"),
    [("helpdesk", 4580, 21348, 0), ("bpic2012", 13087, 262200, 164506)],
)
def test_the_real_logs_have_the_counts_they_are_known_for(
    name: str, cases: int, events: int, complete: int
) -> None:
    """Both public logs are read whole, and within a case they are in the order of time."""
    log = list(read(REAL_LOGS / f"{name}.xes.gz"))

    assert (len({event.case for event in log}), len(log)) == (cases, events)
    assert sum(event.transition == "COMPLETE" for event in log) == complete
    latest: dict[str, datetime] = {}
    for event in log:
        assert event.timestamp is not None
        assert event.timestamp >= latest.get(event.case, event.timestamp)
        latest[event.case] = event.timestamp
    assert [e.timestamp for e in in_timestamp_order(log)] == sorted(e.timestamp for e in log)
