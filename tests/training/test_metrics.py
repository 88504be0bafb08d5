import struct

from tensorboardX.proto.event_pb2 import Event

from sparsejax.training import MetricLog, read_metrics


def events(folder):
    """(step, tag, value) of every scalar in TensorBoard's files, read as records."""
    found = []
    for file in sorted((folder / "tensorboard").iterdir()):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            place += 12 + length + 4
    return found


def test_rows_come_back_and_tensorboard_has_them(tmp_path):
    tmp_path = tmp_path / "not" / "there"
    log = MetricLog(tmp_path)
    log.write({"step": 10, "loss": 0.5, "error": 2.0})
    log.write({"step": 20, "loss": 0.25, "error": 1.0})
    log.close()
    assert read_metrics(tmp_path)[1] == {"step": 20, "loss": 0.25, "error": 1.0}
    assert set(events(tmp_path)) == {
        (10, "loss", 0.5), (10, "error", 2.0), (20, "loss", 0.25), (20, "error", 1.0),
    }  # fmt: skip


def test_resuming_drops_later_rows_and_a_line_cut_short(tmp_path):
    log = MetricLog(tmp_path)
    for step in (10, 20, 30):
        log.write({"step": step, "loss": 1.0})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [10, 20, 30]
    log = MetricLog(tmp_path)
    for step in (25, 30):
        log.write({"step": step, "loss": 2.0})
        log.close()  # the next row opens it again
    rows = read_metrics(tmp_path)
    assert [(row["step"], row["loss"]) for row in rows] == [(10, 1), (20, 1), (25, 2), (30, 2)]


def test_nothing_yet(tmp_path):
    assert read_metrics(tmp_path) == []
