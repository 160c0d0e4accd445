"""Mean average precision beside plain transcriptions and pycocotools, on random boxes."""

import contextlib
import io
import math

import pytest
import torch

from steppe import SteppeError
from steppe.vision.detection.boxes import iou
from steppe.vision.detection.detections import Detections
from steppe.vision.detection.metrics import mean_precisions, overlaps
from steppe.vision.detection.targets import CROWD, DIFFICULT

CLASSES = ("a", "b", "c")


def problem(seed, images=8, difficult=0.0, crowds=0.0):
    """Objects, and detections of which many lie near one or in a crowd."""
    draw = torch.Generator().manual_seed(seed)

    def rand(*size):
        return torch.rand(*size, generator=draw)

    objects, detections = [], []
    for _ in range(images):
        count = int(rand(1) * 6)
        start = rand(count, 2) * 0.6
        boxes = torch.cat([start, start + 0.1 + rand(count, 2) * 0.3], 1)
        labels = (rand(count, 1) * len(CLASSES)).floor()
        hard = (rand(count, 1) < difficult).float() * DIFFICULT
        if crowds:
            hard[rand(count, 1) < crowds] = CROWD
        objects.append(torch.cat([boxes, labels, hard], 1))
        near = boxes.repeat(3, 1) + (rand(3 * count, 4) - 0.5) * 0.09
        far = rand(4, 4) / 2
        far[:, 2:] += far[:, :2]
        seen = torch.cat([near, far])
        names = torch.cat([labels.repeat(3, 1)[:, 0], (rand(4) * len(CLASSES)).floor()]).long()
        if crowds:  # small boxes, several in a crowd, some of them at its edge
            side = (boxes[:, 2:] - boxes[:, :2]).repeat(4, 1)
            first = boxes[:, :2].repeat(4, 1) + (rand(4 * count, 2) - 0.2) * side
            small = torch.cat([first, first + (0.2 + 0.3 * rand(4 * count, 2)) * side], 1)
            seen, names = (
                torch.cat([seen, small]),
                torch.cat([names, labels.repeat(4, 1)[:, 0].long()]),
            )
        scores = rand(len(seen))
        order = scores.argsort(descending=True)
        detections.append(Detections(seen[order], scores[order], names[order]))
    return detections, objects


def overlap(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def inside(a, b):
    """The share of a that lies in b."""
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]))


def plain_voc(detections, objects, label, eleven):
    """The development kit's loop, transcribed."""
    lines = [
        (float(s), image, b.tolist())
        for image, own in enumerate(detections)
        for b, s, c in zip(own.boxes.double(), own.scores, own.labels, strict=True)
        if int(c) == label
    ]
    lines.sort(key=lambda line: -line[0])
    there = [[o.tolist() for o in own.double() if int(o[4]) == label] for own in objects]
    wanted = sum(o[5] == 0 for own in there for o in own)
    if not wanted:
        return math.nan
    used, right, wrong, curve = set(), 0, 0, []
    for _, image, box in lines:
        best, most = None, -1.0
        for place, own in enumerate(there[image]):
            if own[5] != CROWD and overlap(box, own) > most:
                best, most = place, overlap(box, own)
        if most >= 0.5 and not there[image][best][5] and (image, best) not in used:
            right += 1
            used.add((image, best))
        else:
            if most >= 0.5 and there[image][best][5]:
                continue
            if any(own[5] == CROWD and inside(box, own) >= 0.5 for own in there[image]):
                continue
            wrong += 1
        curve.append((right / wanted, right / (right + wrong)))
    if eleven:
        return sum(max((p for r, p in curve if r >= t / 10), default=0) for t in range(11)) / 11
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[place:])
        before = recall
    return area


def plain_coco(detections, objects, label):
    """COCO's rules in words: of each threshold every detection in turn, best first."""
    there = [[o.tolist() for o in own.double() if int(o[4]) == label] for own in objects]
    wanted = sum(o[5] == 0 for own in there for o in own)
    if not wanted:
        return math.nan
    values = []
    for step in range(10):
        least, lines = 0.5 + 0.05 * step, []
        for image, own in enumerate(detections):
            rows = [r for r in range(len(own)) if int(own.labels[r]) == label]
            rows.sort(key=lambda r: -float(own.scores[r]))
            used = set()
            for row in rows[:100]:
                box, chosen = own.boxes[row].double().tolist(), None
                for counts in (True, False):
                    near = [
                        (inside(box, o) if o[5] == CROWD else overlap(box, o), place)
                        for place, o in enumerate(there[image])
                        if (o[5] == 0) == counts and (place not in used or o[5] == CROWD)
                    ]
                    if chosen is None and near and max(near)[0] >= least:
                        chosen = max(near)[1]
                used.add(chosen)
                ignored = chosen is not None and there[image][chosen][5]
                if not ignored:
                    lines.append((float(own.scores[row]), chosen is not None))
        lines.sort(key=lambda line: -line[0])
        right, curve = 0, []
        for count, (_, hit) in enumerate(lines, 1):
            right += hit
            curve.append((right / wanted, right / count))
        points = [max((p for r, p in curve if r >= t / 100), default=0) for t in range(101)]
        values.append(sum(points) / 101)
    return sum(values) / 10


FLAGGED = [(0.0, 0.0), (0.3, 0.0), (0.0, 0.3), (0.3, 0.3)]


@pytest.mark.parametrize(("difficult", "crowds"), FLAGGED)
def test_coco_is_a_plain_transcription(difficult, crowds):
    for seed in range(4):
        detections, objects = problem(seed, 5, difficult, crowds)
        got = mean_precisions(detections, objects, CLASSES)["classes"]
        for label, name in enumerate(CLASSES):
            wanted = plain_coco(detections, objects, label)
            shown = math.nan if got[name]["map"] is None else got[name]["map"]
            assert shown == pytest.approx(wanted, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(("difficult", "crowds"), FLAGGED)
def test_voc_is_a_plain_transcription(difficult, crowds):
    for seed in range(8):
        detections, objects = problem(seed, difficult=difficult, crowds=crowds)
        got = mean_precisions(detections, objects, CLASSES)
        for rule, eleven in (("map50", False), ("map50_11", True)):
            wanted = [plain_voc(detections, objects, label, eleven) for label in range(3)]
            shown = [got["classes"][name][rule] for name in CLASSES]
            shown = [math.nan if value is None else value for value in shown]
            assert shown == pytest.approx(wanted, abs=1e-9, nan_ok=True)
            known = [value for value in wanted if not math.isnan(value)]
            assert got[rule] == pytest.approx(sum(known) / len(known), abs=1e-9)


def pycoco(detections, objects):
    """COCO's own tool on the same boxes: the mean, and of each class."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")

    def as_coco(box):
        left, top, right, bottom = (1000 * side for side in box.double().tolist())
        return [left, top, right - left, bottom - top]

    truth, results = [], []
    for image, own in enumerate(objects):
        for o in own:
            box = as_coco(o[:4])
            entry = {"image_id": image, "category_id": int(o[4]), "bbox": box}
            entry["iscrowd"] = int(o[5] == CROWD)
            truth.append(entry | {"area": box[2] * box[3], "id": len(truth) + 1})
        found = detections[image]
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            entry = {"image_id": image, "category_id": int(label), "bbox": as_coco(box)}
            results.append(entry | {"score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        whole = coco.COCO()
        whole.dataset = {
            "images": [{"id": i} for i in range(len(objects))],
            "categories": [{"id": i, "name": n} for i, n in enumerate(CLASSES)],
            "annotations": truth,
        }
        whole.createIndex()
        tool = evaluation.COCOeval(whole, whole.loadRes(results), "bbox")
        tool.evaluate()
        tool.accumulate()
        tool.summarize()
    return tool.stats, tool.eval["precision"][:, :, :, 0, 2]


@pytest.mark.parametrize("crowds", [0.0, 0.3])
def test_coco_is_pycocotools(crowds):
    for seed in range(6):
        detections, objects = problem(seed, images=12, crowds=crowds)
        stats, precision = pycoco(detections, objects)
        got = mean_precisions(detections, objects, CLASSES)
        assert got["map"] == pytest.approx(stats[0], abs=1e-6)
        for label, name in enumerate(CLASSES):
            wanted = precision[:, :, label].mean()
            assert got["classes"][name]["map"] == pytest.approx(wanted, abs=1e-6)


def test_overlaps_are_computed_once_for_all_images_classes_and_rules(monkeypatch):
    calls = []

    def counted(a, b):
        calls.append(len(a))
        return iou(a, b)

    monkeypatch.setattr(overlaps, "iou", counted)
    problems = [problem(seed, 20, 0.2, 0.2) for seed in range(3)]
    wanted = [mean_precisions(*own, CLASSES) for own in problems]
    assert len(calls) == 3
    whole, most = sum(calls), max(calls)
    calls.clear()
    monkeypatch.setattr(overlaps, "AT_ONCE", 40)  # in many parts they are the same
    assert [mean_precisions(*own, CLASSES) for own in problems] == wanted
    assert len(calls) > 3 * 5
    assert sum(calls) == whole
    assert max(calls) < most / 5


def test_of_an_image_the_hundred_best_count_for_coco_and_all_for_voc():
    box = torch.tensor([[0.2, 0.2, 0.6, 0.6]])
    far = torch.tensor([[0.8, 0.8, 0.9, 0.9]]).repeat(100, 1)
    scores = torch.linspace(0.9, 0.1, 101)
    own = Detections(torch.cat([far, box]), scores, torch.zeros(101, dtype=torch.long))
    there = [torch.cat([box, torch.zeros(1, 2)], 1)]
    got = mean_precisions([own], there, ("a",))
    assert got["map"] == 0.0
    assert got["map50"] == pytest.approx(1 / 101)


def test_a_class_without_objects_has_no_precision_and_no_part_in_the_mean():
    box = torch.tensor([[0.2, 0.2, 0.6, 0.6]])
    own = Detections(box, torch.ones(1), torch.zeros(1, dtype=torch.long))
    got = mean_precisions([own], [torch.cat([box, torch.zeros(1, 2)], 1)], ("a", "b"))
    assert got["map50"] == got["map"] == 1.0
    assert got["classes"]["b"]["map50"] is None


def test_nothing_found_is_0():
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    there = [torch.tensor([[0.1, 0.1, 0.2, 0.2, 0, 0]])]
    got = mean_precisions([nothing], there, ("a",))
    assert (got["map"], got["map50"], got["map50_11"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("rule", ["map50", "map50_11"])
def test_half_an_overlap_is_enough_for_voc(rule):
    """VOCevaldet.m: ovmax>=VOCopts.minoverlap."""
    own = Detections(
        torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.ones(1), torch.zeros(1, dtype=torch.long)
    )
    there = [torch.tensor([[0.0, 0.0, 0.5, 0.25, 0, 0]])]
    assert mean_precisions([own], there, ("a",))[rule] == 1.0
    there[0][0, 3] = 0.249
    assert mean_precisions([own], there, ("a",))[rule] == 0.0


@pytest.mark.parametrize("flag", [None, DIFFICULT, CROWD])
def test_without_an_object_that_counts_there_is_no_precision(flag):
    box = torch.tensor([[0.2, 0.2, 0.6, 0.6]])
    own = Detections(box, torch.ones(1), torch.zeros(1, dtype=torch.long))
    there = torch.zeros(0, 6)
    if flag is not None:
        there = torch.cat([box, torch.tensor([[0.0, flag]])], 1)
    with pytest.raises(SteppeError, match="objects that count; got none in 1 images"):
        mean_precisions([own], [there], ("a",))


@pytest.mark.parametrize("rule", ["map", "map50", "map50_11"])
def test_a_crowd_takes_any_number_of_detections_and_is_never_missed(rule):
    single = torch.tensor([[0.0, 0.0, 0.1, 0.1]])
    crowd = torch.tensor([[0.4, 0.4, 1.0, 1.0, 0, CROWD]])
    in_it = torch.tensor([[0.5, 0.5, 0.6, 0.6], [0.7, 0.7, 0.8, 0.8], [0.5, 0.8, 0.6, 0.9]])
    boxes = torch.cat([in_it, single])
    own = Detections(boxes, torch.linspace(0.9, 0.6, 4), torch.zeros(4, dtype=torch.long))
    there = torch.cat([torch.cat([single, torch.zeros(1, 2)], 1), crowd])
    assert mean_precisions([own], [there], ("a",))[rule] == 1.0
    there[1, 5] = DIFFICULT  # one object, which no small box overlaps enough
    assert mean_precisions([own], [there], ("a",))[rule] < 0.3
