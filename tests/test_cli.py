"""The command line: exit codes and messages as promised, and nothing half-written after an error."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cocoa import __version__ as version
from cocoa.cli import main
from cocoa.data.scene_pairs import ScenePairs
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.model import EmbeddingModel
from cocoa.report.progress import TrainingProgress

# Two processes on two cores: one thread each.
CALM = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def cocoa(monkeypatch, capsys):
    """Runs a command in this process; returns its exit code and all it said."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cocoa", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return code, " ".join((said.out + said.err).split())

    return run


@pytest.fixture
def backbone(tiny, tmp_path):
    folder = tmp_path / "backbone"
    folder.mkdir()
    tiny().save(folder)
    return folder


@pytest.fixture
def model(tiny, tmp_path):
    EmbeddingModel(tiny(), max_tokens=256).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def recipe(backbone, tmp_path):
    """A recipe of one stage over a table of two pictures."""
    scenes = ScenePairs(seed=0, num_pairs=4)
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(4):
        scenes[number].query.images[0].save(tmp_path / "images" / f"{number}.png")
        rows.append({"image_path": f"{number}.png", "text": scenes[number].target.text})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    tree = {
        "name": "small",
        "backbone": {"name": str(backbone)},
        "max_tokens": 256,
        "stages": [
            {
                "name": "warm-up",
                "layout": "bidirectional",
                "objectives": [{"kind": "masked_text", "rate": 0.3, "roles": ["context", "target"]}],
                "data": [{"kind": "image_text_pairs", "path": "pairs.parquet"}],
                "steps": 3,
                "batch_size": 2,
                "learning_rate": 1e-3,
            }
        ],
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def torchrun(*words):
    """Runs a command on two ranks, as a user would."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cocoa"]
    return subprocess.run([*start, *words], capture_output=True, text=True, env=CALM, timeout=120)


def wait_for(path, process):
    """Returns when a file is there; fails if the process ends before."""
    for _ in range(1200):
        if path.exists():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError(f"{path} does not come")


def test_train_writes_what_the_design_promises(cocoa, recipe, tmp_path):
    out = tmp_path / "run"
    code, said = cocoa("train", recipe, "--out", out, "--set", "stages.warm-up.steps=4")
    assert code == 0, said
    promised = {"model", "checkpoints", "recipe.yaml", "data.json", "metrics.jsonl", "report.html"}
    assert {path.name for path in out.iterdir()} == promised | {".claims"}
    assert "warm-up 4/4 in " in said
    assert "tokens/s" in said
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    assert set(records[0]) >= {"step", "stage", "losses", "learning_rate", "tokens_per_second", "data_wait_seconds"}
    assert yaml.safe_load((out / "recipe.yaml").read_text())["stages"][0]["steps"] == 4
    assert "warm-up" in (out / "report.html").read_text()


def test_the_saved_recipe_makes_the_same_run_again(cocoa, recipe, tmp_path):
    assert cocoa("train", recipe, "--out", tmp_path / "one")[0] == 0
    assert cocoa("train", tmp_path / "one" / "recipe.yaml", "--out", tmp_path / "two")[0] == 0
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("one", "two")]
    assert weights[0] == weights[1]


def test_a_model_has_its_report_whenever_the_run_is_killed(cocoa, recipe, tmp_path, monkeypatch):
    out = tmp_path / "run"

    def killed(*given, **how):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingModel, "save", killed)
        code, said = cocoa("train", recipe, "--out", out)
    assert code == 130
    assert said.endswith("interrupted; if the run had begun, --resume goes on from its last checkpoint")
    assert said.count("interrupted") == 1
    assert (out / "report.html").exists() and not (out / "model").exists()
    (out / "report.html").unlink()
    assert cocoa("train", recipe, "--out", out, "--resume")[0] == 0
    assert (out / "report.html").exists() and (out / "model").exists()


def test_an_interrupted_run_goes_on_and_its_report_covers_all_steps(cocoa, recipe, tmp_path, monkeypatch):
    words = ("train", recipe, "--out", tmp_path / "run", "--tensorboard", "--set", "machine={checkpoint_every: 1}")
    assert cocoa("train", recipe, "--out", tmp_path / "whole")[0] == 0
    seen = TrainingProgress.step

    def interrupt(progress, stage, record):
        seen(progress, stage, record)
        if record["step"] == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as change:
        change.setattr(TrainingProgress, "step", interrupt)
        code, said = cocoa(*words)
    assert code == 130, said
    assert not (tmp_path / "run" / "model").exists()
    assert "interrupted; if the run had begun, --resume goes on" in said
    code, said = cocoa(*words, "--resume")
    assert code == 0, said
    assert "resuming after step 1" in said
    assert "warm-up 3/3 2 steps in" in said
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("run", "whole")]
    assert weights[0] == weights[1]
    steps = [
        re.findall('th scope="row">warm-up</th><td>(.*?)</td>', (tmp_path / run / "report.html").read_text())[1]
        for run in ("run", "whole")
    ]
    assert steps == ["3", "3"]


def test_a_run_that_is_not_there_cannot_be_resumed(cocoa, recipe, tmp_path):
    code, said = cocoa("train", recipe, "--out", tmp_path / "run", "--resume")
    assert code == 2
    assert "E_USAGE_RESUME" in said


def test_without_tensorboard_nothing_is_begun_and_the_extra_is_named(cocoa, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("cocoa.training.board.find_spec", lambda name: None)
    code, said = cocoa("train", recipe, "--out", tmp_path / "run", "--tensorboard")
    assert code == 2
    assert "pip install 'cocoa-embeddings[tensorboard]' [E_USAGE_TENSORBOARD]" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("asked", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint_and_says_how_to_go_on(
    recipe, tmp_path, asked, code, at_a_keyboard
):
    out = tmp_path / "run"
    words = [sys.executable, "-m", "cocoa", "train", recipe, "--out", out, "--set", "stages.warm-up.steps=100000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=CALM) as run:
        try:
            wait_for(out / "metrics.jsonl", run)
            run.send_signal(asked)
            said, complaints = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == code, complaints
    num_steps = len((out / "metrics.jsonl").read_text().splitlines())
    assert f"asked to stop after step {num_steps} ({num_steps} of 100000 of stage warm-up)" in said
    assert ("Ctrl-C again ends it at once" in said) == (asked == signal.SIGINT)
    assert "--resume" in said
    assert "error" not in said + complaints
    assert list((out / "checkpoints").iterdir())
    assert not (out / "model").exists()


def test_of_several_ranks_one_speaks(recipe, tmp_path):
    answer = torchrun("train", recipe, "--out", tmp_path / "run")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("warm-up") == answer.stdout.count("warm-up  3/3  in ") == 1
    assert answer.stdout.count("Model in") == 1
    assert (tmp_path / "run" / "report.html").exists()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_failing_rank_is_named_and_no_other_shows_a_traceback(recipe, tmp_path):
    (tmp_path / "images" / "2.png").write_bytes(b"<html>not found</html>")
    answer = torchrun("train", recipe, "--out", tmp_path / "run")
    assert answer.returncode == 1
    said = answer.stderr.replace("\n", " ")
    guilty = re.search(r"rank (\d): error: \S*pairs.parquet:3: ", said)
    assert guilty, said
    # torchrun may end the other before it can say anything.
    assert f"rank {guilty[1]}: error: another rank" not in said
    assert "[rank" not in said


def test_a_rank_that_lost_another_says_so_and_other_failures_are_not_hidden(cocoa, monkeypatch):
    def fail():
        raise RuntimeError(failure)

    monkeypatch.setattr("cocoa.cli.app", fail)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    failure = "gloo: Connection closed by peer [127.0.0.1]"
    gone = "rank 1: error: another rank is gone; its own message says why [E_SYSTEM_RANK]"
    assert cocoa("train") == (1, gone)
    for late in ("Timed out waiting 4000ms", "Gloo connectFullMesh failed with timed out connecting"):
        failure = late
        code, said = cocoa("train")
        assert (code, "machine.rank_timeout" in said, "E_SYSTEM_RANK" in said) == (1, True, True)
    failure = "shapes do not match"
    with pytest.raises(RuntimeError, match="shapes"):
        cocoa("train")


def test_a_rank_that_waits_in_vain_for_the_others_to_start_says_so(recipe, tmp_path):
    places = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    words = ("train", recipe, "--out", tmp_path / "run", "--set", "machine.rank_timeout=1")
    start = [sys.executable, "-m", "cocoa", *words]
    answer = subprocess.run(start, capture_output=True, text=True, env=CALM | places, timeout=120)
    assert answer.returncode == 1
    assert "rank 0: error: another rank has not come for longer than machine.rank_timeout" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_plan_says_what_a_run_will_take(cocoa, recipe, tmp_path):
    words = ("--device", "h100", "--ranks", "2", "--json", tmp_path / "plan.json")
    code, said = cocoa("plan", recipe, "--set", "stages.warm-up.steps=7", *words)
    assert code == 0, said
    assert "warm-up" in said
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["ranks"], plan["device"]["name"], plan["stages"][0]["steps"]) == (2, "h100", 7)
    code, said = cocoa("plan", recipe, "--device", "abacus")
    assert code == 2
    assert "a100-80gb" in said


def test_a_used_folder_is_not_written_over(cocoa, recipe, tmp_path):
    assert cocoa("train", recipe, "--out", tmp_path / "run")[0] == 0
    code, said = cocoa("train", recipe, "--out", tmp_path / "run")
    assert code == 2
    assert "E_USAGE_OUT" in said


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ("stages.warm-up.batch_sise=3", "did you mean 'batch_size'"),
        ("stages.warm-up.steps=many", "stages.0.steps"),
        ("stages.warm-up.learning_rate=-1.0", "stages.0.learning_rate"),
        ("stages.warmup.steps=3", "no 'warmup' among warm-up"),
    ],
)
def test_a_wrong_recipe_is_wrong_use_and_leaves_nothing(cocoa, recipe, tmp_path, change, names):
    code, said = cocoa("train", recipe, "--out", tmp_path / "run", "--set", change)
    assert code == 2
    assert names in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_broken_picture_stops_the_run_naming_file_and_row_and_leaves_no_model(cocoa, recipe, tmp_path):
    (tmp_path / "images" / "2.png").write_bytes(b"<html>not found</html>")
    code, said = cocoa("train", recipe, "--out", tmp_path / "run")
    assert code == 1
    assert "pairs.parquet:3" in said
    assert "2.png" in said
    assert not (tmp_path / "run" / "model").exists()


def test_data_that_is_wrong_is_found_before_anything_is_trained(cocoa, recipe, tmp_path):
    pq.write_table(pa.Table.from_pylist([{"picture": "0.png", "text": "a"}]), tmp_path / "pairs.parquet")
    code, said = cocoa("train", recipe, "--out", tmp_path / "run")
    assert code == 1
    assert "E_DATA_COLUMN" in said
    assert "image_path" in said
    assert not (tmp_path / "run").exists()


def test_recipe_show_draws_the_layouts(cocoa, recipe):
    code, said = cocoa("recipe", "show", recipe, "--set", "stages.0.layout=eos_bridge")
    assert code == 0
    assert "e # # # # #" in said
    assert "B . . # # #" in said
    code, said = cocoa("recipe", "show", recipe, "--set", "stages.0.objectives=[{kind: contrastive}]")
    assert code == 0, said
    assert "A a query or a target by itself, e bridge token) A A e A # # # A # # # e # # #" in said


def test_evaluate_scores_a_folder_and_says_if_a_part_is_missing(cocoa, model, tmp_path):
    write_scene_tasks(tmp_path / "tasks", seed=0, num_train=12, num_test=12)
    code, said = cocoa("evaluate", model, "--tasks", tmp_path / "tasks", "--out", tmp_path / "scores")
    assert code == 0, said
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert set(results) == {"model", "tasks", "summary", "complete", "missing"}
    assert results["complete"] is True
    assert set(results["summary"]) == {"classification", "vqa", "retrieval", "grounding", "overall"}
    scores = [task["hit_at_1"] for task in results["tasks"].values()]
    assert results["summary"]["overall"] == pytest.approx(sum(scores) / len(scores))
    code, said = cocoa(
        "evaluate", model, "--tasks", tmp_path / "tasks", "--only", "scene_vqa_seen", "--out", tmp_path / "x"
    )
    assert code == 0, said
    part = json.loads((tmp_path / "x" / "results.json").read_text())
    assert part["complete"] is False
    assert part["summary"] == {}


def test_progress_goes_to_the_error_stream(cocoa, model, recipe, tmp_path, monkeypatch):
    write_scene_tasks(tmp_path / "tasks", seed=0, num_train=12, num_test=12)
    for words, module, said in (
        (["embed", tmp_path / "images"], "corpus", "rows/s"),
        (["evaluate", "--tasks", tmp_path / "tasks", "--only", "scene_vqa_seen"], "evaluation", "samples/s"),
    ):
        monkeypatch.setattr(f"cocoa.{module}.progress.QUIET_SECONDS", 0)
        # What a command says on its output is taken elsewhere; what is left is the error stream.
        with contextlib.redirect_stdout(io.StringIO()) as out:
            code, err = cocoa(words[0], model, *words[1:], "--out", tmp_path / module)
        assert code == 0
        assert said in err
        assert out.getvalue() and said not in out.getvalue()


def test_mine_says_which_bound_leaves_rows_without_negatives(cocoa, model, tmp_path):
    table = tmp_path / "ask.jsonl"
    row = {"qry": "find it", "qry_image_path": "", "pos_image_path": ""}
    table.write_text("".join(json.dumps(row | {"qry": f"find {n}", "pos_text": f"thing {n}"}) + "\n" for n in range(9)))
    code, said = cocoa("mine", model, table, "--out", tmp_path / "none", "--max-score", "-2")
    assert code == 0, said
    assert "0 negatives for 9 rows" in said
    bounds = "--max-ratio 0.95, --max-score -2.0"
    assert f"rows that would have more but for {bounds}: 9; what is near them scores higher" in said
    code, said = cocoa("mine", model, table, "--out", tmp_path / "all", "--max-ratio", "inf")
    assert code == 0, said
    assert "63 negatives for 9 rows" in said
    assert "would have more" not in said


def test_embed_says_what_it_leaves_out(cocoa, model, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "an owl " * 200, "image_path": "a.png"}) + "\n")
    code, said = cocoa("embed", model, rows, "--out", tmp_path / "vectors")
    assert code == 0, said
    assert "texts cut: 1, since this model reads 256 tokens" in said
    assert "'image_path' is kept but not embedded" in said


def test_embed_and_search_find_a_picture_by_itself(cocoa, model, recipe, tmp_path):
    code, said = cocoa("embed", model, tmp_path / "images", "--out", tmp_path / "vectors")
    assert code == 0, said
    code, said = cocoa("search", tmp_path / "vectors", "--text", "a dog", "-k", "2")
    assert code == 0, said
    assert said.count(".png") == 2
    code, said = cocoa("search", tmp_path / "vectors")
    assert code == 2
    assert "E_USAGE_SEARCH" in said


@pytest.mark.parametrize(
    ("words", "code", "names"),
    [
        (["evaluate", "{tmp}/nothing", "--tasks", "{tmp}/images"], 1, "E_DATA_FILE"),
        (["embed", "{tmp}/nothing", "{tmp}/images", "--out", "{tmp}/o"], 1, "E_MODEL_MISSING"),
        (["embed", "{tmp}/backbone", "{tmp}/images", "--out", "{tmp}/o"], 1, "must be trained first"),
        (["search", "{tmp}/images", "--text", "a"], 1, "E_INDEX_FILE"),
        (["train", "{tmp}/nothing.yaml"], 2, "E_RECIPE_FILE"),
        (["serve", "{tmp}/m", "--set", "limits.max_itemz=3"], 2, "limits.max_itemz: unknown option; did you mean"),
        (["serve", "{tmp}/m", "--set", "port=-1"], 2, "port: input should be greater than or equal to 0 (got -1)"),
        (["fly"], 2, "No such command"),
        (
            ["synthesize", "{tmp}/images", "--out", "{tmp}/o", "--kind", "captions", "--model", "m"],
            2,
            "give --endpoint",
        ),
        (["--version"], 0, f"cocoa {version}"),
    ],
)
def test_what_is_not_there_is_named(cocoa, recipe, tmp_path, words, code, names):
    got, said = cocoa(*[word.format(tmp=tmp_path) for word in words])
    assert got == code, said
    assert names in said


def test_a_model_folder_that_lost_a_file_is_refused(cocoa, model, recipe, tmp_path):
    (model / "model.safetensors").unlink()
    code, said = cocoa("embed", model, tmp_path / "images", "--out", tmp_path / "vectors")
    assert code == 1
    assert "model.safetensors is missing" in said
    assert not (tmp_path / "vectors").exists()


class OutOfMemoryError(RuntimeError):
    """What torch's is called."""


def _caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (OSError(28, "No space left on device", "run/metrics.jsonl"), "run/metrics.jsonl: No space left on device"),
        (PermissionError(13, "Permission denied"), "Permission denied [E_SYSTEM]"),
        (OutOfMemoryError("CUDA out of memory. Tried\nmore"), "lower machine.chunk_tokens"),
        (MemoryError(), "the memory is full"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "the memory is full"),
        (
            _caused(ModuleNotFoundError("no X"), RuntimeError("operator torchvision::nms does not")),
            "uninstall torchvision",
        ),
    ],
)
def test_what_the_system_refuses_is_told_without_a_traceback(cocoa, monkeypatch, tmp_path, failure, told):
    def fail(*given, **how):
        raise failure

    monkeypatch.setattr("cocoa.recipe.load_recipe", fail)
    code, said = cocoa("train", tmp_path / "recipe.yaml")
    assert code == 1 and told in said and "Traceback" not in said
    with pytest.raises(type(failure)):
        cocoa("--debug", "train", tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("serve M --engine cloud", "'cloud' is not one of 'local', 'ray'"),
        (
            "synthesize IN --out OUT --kind captions --model M --engine cloud",
            "'cloud' is not one of 'endpoint', 'local'",
        ),
    ],
)
def test_an_engine_that_is_none_is_told_beside_those_that_are(cocoa, words, told):
    code, said = cocoa(*words.split())
    assert code == 2
    assert told in " ".join(said.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("embed M IN --out OUT --strict --max-bad-rate 0.1", "--max-bad-rate has no effect with --strict"),
        ("search IN --text owl --weight 0.7", "--weight has no effect without --unlike"),
        ("search IN --like a --model M", "--model has no effect without --text or --image"),
        ("evaluate M --tasks IN --held-out-seed 3", "--held-out-seed has no effect without --held-out"),
        ("synthesize IN --out OUT --kind captions --model M --engine local --retries 3", "--retries has no effect"),
        ("synthesize IN --out OUT --kind captions --model M --device cpu", "--device has no effect with --engine end"),
    ],
)
def test_an_option_without_effect_is_refused(cocoa, tmp_path, words, told):
    given = [str(tmp_path / word) if word in ("M", "IN", "OUT") else word for word in words.split()]
    code, said = cocoa(*given)
    assert code == 2
    assert f"{told}" in said and "[E_USAGE_IDLE]" in said
    assert not (tmp_path / "OUT").exists()


WITH_SMALL_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
sys.argv[0] = "cocoa"
from cocoa.cli import main
main()
"""


def test_a_disk_that_is_full_is_told_without_a_traceback(cocoa, model, tmp_path):
    """A limit on the size of files fails in the same calls as a full disk."""
    tasks, vectors = tmp_path / "tasks", tmp_path / "vectors"
    write_scene_tasks(tasks, seed=0, num_train=12, num_test=12, num_things=32)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"id": "{number}", "text": "an owl"}}\n' for number in range(20)))
    assert cocoa("embed", model, rows, "--out", vectors)[0] == 0
    for words in (
        ("export", model),
        ("evaluate", model, "--tasks", tasks, "--only", "scene_t2i_seen"),
        ("index", vectors),
    ):
        out = tmp_path / words[0]
        given = [sys.executable, "-c", WITH_SMALL_FILES, *map(str, words), "--out", str(out)]
        run = subprocess.run(given, capture_output=True, text=True, timeout=120, env=CALM)
        assert run.returncode == 1, run.stdout
        assert "Traceback" not in run.stderr, run.stderr
        assert re.search(r"\[E_\w+\]", run.stderr), run.stderr
        assert not [path for path in out.rglob("*") if path.name in ("cocoa.json", "results.json", "index.json")]


def test_a_run_into_a_file_is_told_without_a_traceback(cocoa, recipe, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, said = cocoa("train", recipe, "--out", tmp_path / "file")
    assert code == 2 and "is not a folder" in said
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("command", ["evaluate", "probe", "mine", "embed", "serve", "verify"])
def test_help_says_what_may_stand_for_a_model(cocoa, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "200")
    _, said = cocoa(command, "--help")
    assert "Model folder, nano-embedder, or on the hub OWNER/NAME or OWNER/NAME@REVISION." in said


def test_a_run_that_has_not_ended_is_told_with_what_makes_a_model_of_it(cocoa, tmp_path):
    run = tmp_path / "a run"
    (run / "checkpoints").mkdir(parents=True)
    for place in (run, run / "model"):
        code, said = cocoa("verify", place)
        assert code == 1 and "the run has not ended" in said
        assert f"--out '{run}' --resume" in said and f"cocoa export '{run}'" in said
    (run / "model").mkdir()
    _, said = cocoa("verify", run / "model")
    assert "has not ended" not in said


def test_who_names_a_folder_for_a_recipe_or_a_recipe_for_a_study_is_told_so(cocoa, recipe, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text("name: s\nseeds: [0]\narms: []\nstages: {}\n")
    for words, told in (
        (("train", tmp_path), "is a folder; name the YAML file [E_RECIPE_FILE]"),
        (("ablate", tmp_path), "is a folder; name the YAML file [E_RECIPE_FILE]"),
        (("train", study), "`cocoa ablate` runs it"),
        (("ablate", recipe), "`cocoa train` runs it"),
        (("check-data", recipe, "--set", "stages.0.data.0.path=images"), "is a folder, not a table"),
        (("evaluate", tmp_path, "--tasks", recipe), "is a file, not a folder of tables"),
    ):
        code, said = cocoa(*words, *(["--out", tmp_path / "out"] if words[0] == "check-data" else []))
        assert code in (1, 2) and told in said, said


def test_a_finding_names_its_stages_where_there_are_several(cocoa, recipe, tmp_path):
    tree = yaml.safe_load(recipe.read_text())
    rows = pq.read_table(tmp_path / "pairs.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist([*rows, rows[0]]), tmp_path / "pairs.parquet")
    _, said = cocoa("check-data", recipe, "--out", tmp_path / "check")
    assert "more than once: 1 [DUPLICATE_PAIR]" in said
    tree["stages"].append(tree["stages"][0] | {"name": "again"})
    recipe.write_text(yaml.safe_dump(tree))
    _, said = cocoa("check-data", recipe, "--out", tmp_path / "check")
    assert "more than once: 1 in warm-up, again [DUPLICATE_PAIR]" in said


def test_a_backbone_of_no_owner_is_not_asked_for_on_the_hub(cocoa, recipe, tmp_path, monkeypatch):
    def ask(*given, **how):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("cocoa.backbones.loading.hf_hub_download", ask)
    code, said = cocoa("train", recipe, "--set", "backbone.name=nanoo", "--out", tmp_path / "run")
    assert code == 1 and "no backbone 'nanoo': neither nano, nano-untrained nor a folder here" in said
    assert not (tmp_path / "run").exists()


def test_a_pool_that_is_none_is_told_beside_those_that_are(cocoa, model, tmp_path):
    code, said = cocoa("mine", model, tmp_path, "--out", tmp_path / "mined", "--pool", "rows")
    assert code == 2 and "pool is 'rows'; use table or all [E_USAGE_MINING]" in said


def test_an_embedding_job_that_fails_says_its_error_and_no_empty_line(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cocoa", "embed", str(model), str(tmp_path / "no"), "--out", str(tmp_path / "o")])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.startswith("error: ")
