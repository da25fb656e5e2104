"""A small real evaluation: drawn scenes, judged by the oracle; noisy captions as base, the teacher's as policy."""

from __future__ import annotations

import io

from PIL import Image

from balcap.evaluation.cases import Case
from balcap.evaluation.judging import judge_all
from balcap.evaluation.run import Results, compare_cases, score_picture
from balcap.hashing import image_id
from balcap.judge import JUDGES
from balcap.judge.guard import Guard
from balcap.params.evaluate import Evaluate
from balcap.params.judge import RuleJudge
from balcap.records import Caption, Picture, Question, Reference, Sample
from balcap.scenes import draw_scene, noisy_caption, render, scene_questions, split_units, teacher_caption

PARAMS = Evaluate(
    seed=1,
    max_images=256,
    batch_size=4,
    temperature=1.0,
    max_new_tokens=8,
    judge=RuleJudge(name="oracle", revision="1", max_failure_rate=0.0),
    judge_deadline=60.0,
    allow_training_judge=True,
    bootstrap=200,
    confidence=0.95,
    report_images=6,
)


def picture(index: int) -> Picture:
    """A drawn scene as `prepare` stores it, with the teacher's reference and four questions."""
    scene = draw_scene(seed=7, index=index, min_objects=1, max_objects=3)
    pixels = render(scene)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    identity = image_id(pixels.shape[1], pixels.shape[0], pixels.tobytes())
    text = teacher_caption(scene, seed=index)
    questions = tuple(
        Question(identity, q.question, q.options, q.answer, 1.0, float("nan")) for q in scene_questions(scene, 0, 4)
    )
    return Picture(
        Sample(identity, buffer.getvalue(), "eval", "scenes", "CC0-1.0", {"scene": scene.to_json()}),
        Reference(identity, text, split_units(text), "scenes", ""),
        questions,
    )


def captions(index: int) -> list[Caption]:
    """What base and policy say of picture ``index``."""
    scene = draw_scene(seed=7, index=index, min_objects=1, max_objects=3)
    return [Caption(noisy_caption(scene, index)), Caption(teacher_caption(scene, index + 1000))]


def results(count: int, judge: str = "oracle", groups: list[list[Caption]] | None = None) -> Results:
    """The evaluation of ``count`` scenes."""
    pictures = [picture(index) for index in range(count)]
    groups = groups or [captions(index) for index in range(count)]
    made = JUDGES[judge]()
    judged = judge_all(Guard(made, 60.0), pictures, groups, seed=1)
    cases: tuple[Case, ...] = tuple(
        score_picture(p, group, verdicts, made.fills, 1)
        for p, group, verdicts in zip(pictures, groups, judged, strict=True)
    )
    return Results(cases, compare_cases(cases, PARAMS), made.fills, 0.0, {})
