"""Building a release: all is in it, agrees with itself and with the schemas of others, and what is wrong leaves nothing."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from release_runs import OFFLINE, tales, talks  # noqa: F401  fixtures

from seekling.cli import main
from seekling.errors import CheckpointError, MachineError, RecipeError
from seekling.release import build as build_room
from seekling.release.bom import cyclonedx_problems
from seekling.release.build import build
from seekling.release.layout import COMPONENTS, files_of, manifest_problems
from seekling.release.licences import LicenceError


def quiet(line):
    pass


def make_key(path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(pem)
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def released(tales, tmp_path_factory):  # noqa: F811
    """The tiny run with everything that can be asked for."""
    home = tmp_path_factory.mktemp("release")
    key = make_key(home / "key.pem")
    options = dataclasses.replace(
        OFFLINE, about=str(tales / "about.toml"), with_data=True, gguf=True, int8=True, git=True, key=str(key), name="tiny"
    )
    build(tales / "base", home / "out", options, quiet)
    assert sorted(p.name for p in home.iterdir()) == ["key.pem", "out"]  # nothing half-written beside it
    return home / "out"


@pytest.fixture
def manifest(released):
    return json.loads((released / "release.json").read_text("utf-8"))


# ---- what is in it ---------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_as_the_place_of_the_release_and_leaves_nothing(tmp_path, monkeypatch):
    def full(folder, *rest):
        raise OSError(errno.ENOSPC, "No space left on device", "the/source", None, str(folder / "model.safetensors"))

    monkeypatch.setattr(build_room, "gather", lambda *rest: SimpleNamespace(licence_ids=lambda: ()))
    monkeypatch.setattr(build_room, "installed", lambda: None)
    monkeypatch.setattr(build_room, "_fill", full)
    with pytest.raises(MachineError, match=r"--out .*mine: No space left on device; free some space"):
        build_room.build("run", tmp_path / "mine", SimpleNamespace(key=None, git=False), print)
    assert list(tmp_path.iterdir()) == []


def test_manifest_follows_its_schema_and_lists_every_file_with_its_hash(released, manifest):
    assert manifest_problems(manifest) == []
    listed = {row["path"]: row for row in manifest["files"]}
    here = {p.as_posix() for p in files_of(released)} - {"release.json", "SHA256SUMS", "model.sig"}
    assert set(listed) == here
    for path, row in listed.items():
        content = (released / path).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(content), hashlib.sha256(content).hexdigest()), path


def test_sums_are_what_sha256sum_checks(released):
    lines = (released / "SHA256SUMS").read_text("utf-8").splitlines()
    for line in lines:
        digest, _, path = line.partition("  ")
        assert hashlib.sha256((released / path).read_bytes()).hexdigest() == digest
    assert {line.partition("  ")[2] for line in lines} >= {"release.json", "model.safetensors", "report.pdf"}


def test_all_seventeen_components_are_there(released, manifest):
    assert [c["key"] for c in manifest["components"]] == [c.key for c in COMPONENTS]
    for component in manifest["components"]:
        for path in component["paths"]:
            assert (released / path).exists(), (component["key"], path)


def test_released_weights_are_the_checkpoints_with_name_and_licence_in_the_header(released, tales):  # noqa: F811
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    before = load_file(tales / "base/checkpoints/step-000004/model.safetensors")
    after = load_file(released / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    with safe_open(released / "model.safetensors", "pt") as file:
        assert file.metadata()["license"] == "MIT" and file.metadata()["name"] == "tiny"


def test_transformers_opens_the_folder(released):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(released)
    ids = AutoTokenizer.from_pretrained(released)("The dog", return_tensors="pt").input_ids
    assert model(ids).logits.shape[-1] == 300


def test_gguf_files_open_and_carry_the_licence(released):
    from gguf import GGUFReader

    for kind in ("BF16", "Q8_0"):
        reader = GGUFReader(released / f"tiny-{kind}.gguf")
        assert bytes(reader.fields["general.license"].parts[-1]).decode() == "MIT"


def test_no_path_of_this_machine_is_in_any_text(released, tales):  # noqa: F811
    for path in files_of(released):
        if path.suffix in (".md", ".json", ".jsonl", ".toml", ".yaml", ".lock", ".txt"):
            assert str(tales) not in (released / path).read_text("utf-8"), path


def test_every_licence_named_has_its_text(released, manifest):
    for name in ("MIT", "CC-BY-4.0"):
        assert (released / "LICENSES" / f"{name}.txt").stat().st_size > 500
    licence = (released / "LICENSE").read_text("utf-8")
    assert "A test" in licence and "<copyright holders>" not in licence
    assert manifest["licences"]["data"] == "CC-BY-4.0"


# ---- cards and report ------------------------------------------------------------------------------------------------


def test_model_card_reads_back_with_huggingface_hub(released):
    from huggingface_hub import ModelCard

    card = ModelCard.load(released / "README.md")
    assert card.data.license == "mit" and card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation" and card.data.model_name == "tiny"
    assert {r.dataset_name for r in card.data.eval_results} == {"heldout", "heldout_tales"}


def test_data_card_reads_back_with_huggingface_hub(released):
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(released / "data" / "README.md")
    assert card.data.license == "cc-by-4.0" and "the same story again and again" in card.text


def test_report_says_what_the_publisher_says_did_not_work(released):
    text = (released / "report.md").read_text("utf-8")
    assert "## What did not work" in text and "A learning rate of 1 did not work." in text
    for title in ("Abstract", "The model in ten numbers", "Data", "Evaluation", "What this model cannot do", "Repeat it"):
        assert f"## {title}" in text


def test_report_pdf_has_pages_with_the_same_words(released):
    content = (released / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF-") and content.count(b"/Type /Page\n") >= 4
    if shutil.which("pdftotext"):
        text = subprocess.run(["pdftotext", released / "report.pdf", "-"], capture_output=True, text=True, check=True).stdout
        assert "The model in ten numbers" in text and "A learning rate of 1 did not work." in text


def test_scores_stand_with_intervals_and_chance_in_the_harness_shape(released, manifest):
    results = json.loads((released / "evaluation/results.json").read_text("utf-8"))
    row = results["results"]["heldout"]
    low, high = results["intervals"]["values"]["heldout"]["bits_per_byte"]
    assert low < row["bits_per_byte,none"] < high and row["bits_per_byte_stderr,none"] > 0
    assert results["chance"]["heldout"]["uniform"]["acc"] == pytest.approx(1 / 300)
    assert results["higher_is_better"]["heldout"] == {"bits_per_byte": False, "acc": True}
    logged = manifest["stages"][0]["final"]
    assert row["bits_per_byte,none"] == pytest.approx(logged["value"], abs=1e-4)  # the files give what the log says


def test_first_losses_are_the_logged_ones_bit_for_bit(manifest, tales):  # noqa: F811
    lines = [json.loads(line) for line in (tales / "base/log.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert manifest["stages"][0]["first_losses"] == [{"step": s["step"], "loss": s["loss"]} for s in steps]


def test_heldout_and_training_text_are_the_documents(released, tales):  # noqa: F811
    import zstandard

    heldout = [json.loads(line) for line in (released / "data/heldout.jsonl").read_text("utf-8").splitlines()]
    with open(released / "data/train.jsonl.zst", "rb") as file:
        train = [json.loads(line) for line in zstandard.ZstdDecompressor().stream_reader(file).read().splitlines()]
    found = sorted(row["text"].strip() for row in heldout + train)
    assert found == sorted(p.read_text("utf-8").strip() for p in (tales / "tales").iterdir())


def test_the_recipe_in_the_release_repeats_the_run(released, tales):  # noqa: F811
    recipe = tomllib.loads((released / "stages/1-pretrain/recipe.toml").read_text("utf-8"))
    original = tomllib.loads((tales / "base/recipe.toml").read_text("utf-8"))
    assert recipe["train"] == original["train"] and recipe["model"] == original["model"]


# ---- bills of materials and statements -------------------------------------------------------------------------------


def test_cyclonedx_is_valid_and_lists_the_same_hashes(released, manifest):
    document = json.loads((released / "bom/ml-bom.cdx.json").read_text("utf-8"))
    assert cyclonedx_problems(document) == []
    assert cyclonedx_problems(document | {"components": [{"type": "dish"}]}) != []  # the validator does look
    hashes = {c["name"]: c["hashes"][0]["content"] for c in document["components"] if c["type"] == "file"}
    listed = {row["path"]: row["sha256"] for row in manifest["files"]}
    assert hashes and all(listed[path] == digest for path, digest in hashes.items())
    card = document["metadata"]["component"]["modelCard"]
    assert card["quantitativeAnalysis"]["performanceMetrics"][0]["confidenceInterval"]["lowerBound"]


def test_spdx_loads_and_keeps_the_rules_of_its_profiles(released):
    import spdx_python_model

    model, objects = spdx_python_model.load_data(json.loads((released / "bom/spdx.json").read_text("utf-8")))
    packages = [*objects.foreach_type(model.ai_AIPackage), *objects.foreach_type(model.dataset_DatasetPackage)]
    assert {p.name for p in packages} == {"tiny", "pretrain: tales"}
    related = list(objects.foreach_type(model.Relationship))
    for package in packages:
        for kind in ("hasConcludedLicense", "hasDeclaredLicense"):
            wanted = getattr(model.RelationshipType, kind)
            assert len([r for r in related if r.relationshipType == wanted and r.from_ == package]) == 1
        assert package.releaseTime and package.software_primaryPurpose and package.software_downloadLocation
    (data,) = objects.foreach_type(model.dataset_DatasetPackage)
    assert data.builtTime and data.originatedBy and data.dataset_datasetType


def test_spdx_is_valid_against_the_official_json_schema(released):
    """spdx/spdx-spec, branch gh-pages, 3.0.1/rdf/schema.json (Community-Spec-1.0), unchanged."""
    import gzip

    import jsonschema_rs  # of schemathesis; the reference validator needs minutes for this schema

    text = gzip.decompress((Path(__file__).parent / "golden" / "spdx-3.0.1.schema.json.gz").read_bytes())
    validator = jsonschema_rs.Draft202012Validator(json.loads(text))
    document = json.loads((released / "bom/spdx.json").read_text("utf-8"))
    assert validator.is_valid(document)
    document["@graph"][3]["type"] = "software_Dish"
    assert not validator.is_valid(document)  # it does look


def test_eu_summary_keeps_the_order_of_the_template(released):
    text = (released / "compliance/eu-training-summary.md").read_text("utf-8")
    heads = ["## 1.", "### 1.1", "### 1.2", "### 1.3", "## 2.", "### 2.1", "### 2.2", "#### 2.2.1", "#### 2.2.2", "### 2.3"]
    heads += ["### 2.4", "### 2.5", "### 2.6", "## 3.", "### 3.1", "### 3.2", "### 3.3"]
    places = [text.index(f"\n{head} ") for head in heads]
    assert places == sorted(places)
    assert "less than 1 billion tokens" in text and "TO BE FILLED: measures" in text  # a folder of the user's needs a person


def test_files_of_a_folder_are_listed_with_their_hashes(released):
    (source,) = (
        s for s in json.loads((released / "release.json").read_text("utf-8"))["data"]["sources"] if s["name"] == "tales"
    )
    name, digest = source["files"][0].split(" sha256:")
    assert name.endswith(".txt") and len(digest) == 64


def test_model_openness_file_is_as_that_tool_reads_it(released):
    from seekling.release.check.place import open_folder
    from seekling.release.check.run import check

    place = open_folder(released)
    ours = {c.key: c.state for c in check(place).components}
    told = check(place, mof=released / "compliance/mof.yaml")
    assert {c.key: c.state for c in told.components} == ours
    assert {c.basis for c in told.components if c.state != "missing"} == {"declared"}


def test_model_openness_file_fits_that_tools_schema(released):
    import jsonschema
    import yaml

    schema = json.loads((Path(__file__).parent / "golden" / "mof_schema.json").read_text("utf-8"))
    document = yaml.safe_load((released / "compliance/mof.yaml").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)
    inner = schema["properties"]["release"]["properties"]["components"]["items"]["properties"]
    assert all(set(c) <= set(inner) for c in document["release"]["components"])  # nothing that the tool would pass over


def test_labelling_statement_names_the_metadata_key(released):
    text = (released / "compliance/labelling-cn.md").read_text("utf-8")
    assert "人工智能生成" in text and "AIGC" in text and "GB 45438-2025" in text


# ---- signature, Git, code --------------------------------------------------------------------------------------------


def test_signature_verifies_with_model_signing_and_a_changed_byte_does_not(released, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(released, folder)
    program = os.path.join(os.path.dirname(sys.executable), "model_signing")
    start = [program] if os.path.exists(program) else [sys.executable, "-m", "model_signing"]
    command = [*start, "verify", "key", str(folder), "--signature", str(folder / "model.sig")]
    command += ["--public_key", str(folder / "model.pub")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Verification succeeded" in done.stdout, done.stderr
    (folder / "report.md").write_text("changed", "utf-8")
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode != 0


def test_repository_holds_pointers_and_lfs_objects(released):
    def git(*words):
        safe = ["-c", "safe.directory=*"]
        return subprocess.run(["git", *safe, "-C", released, *words], capture_output=True, text=True, check=True).stdout

    weights = (released / "model.safetensors").read_bytes()
    oid = hashlib.sha256(weights).hexdigest()
    assert git("show", "HEAD:model.safetensors").splitlines()[1:] == [f"oid sha256:{oid}", f"size {len(weights)}"]
    assert (released / f".git/lfs/objects/{oid[:2]}/{oid[2:4]}/{oid}").read_bytes() == weights
    tracked = set(git("ls-tree", "-r", "--name-only", "HEAD").split())
    assert tracked == {p.as_posix() for p in files_of(released)} | {".gitattributes"}


def test_code_archive_unpacks_to_a_package_that_imports(released, manifest, tmp_path):
    import tarfile

    with tarfile.open(released / manifest["code"]["archive"]) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    assert (root / "seekling/release/build.py").is_file() and not list(root.rglob("*.pyc"))
    lock = (released / "code/requirements.lock").read_text("utf-8")
    assert "torch==" in lock and "safetensors==" in lock


@pytest.mark.slow
def test_equal_runs_and_dates_give_equal_documents(tales, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    options = dataclasses.replace(OFFLINE, about=str(tales / "about.toml"), checkpoints=False)
    for name in ("one", "two"):
        build(tales / "base", tmp_path / name, options, quiet)
    for path in files_of(tmp_path / "one"):
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path


# ---- a second stage --------------------------------------------------------------------------------------------------


def test_fine_tuned_run_carries_the_stage_before_it(talks, tmp_path):  # noqa: F811
    build(talks / "taught", tmp_path / "out", dataclasses.replace(OFFLINE, about=str(talks / "about.toml")), quiet)
    manifest = json.loads((tmp_path / "out/release.json").read_text("utf-8"))
    assert [(s["verb"], s["starts_from"]) for s in manifest["stages"]] == [("pretrain", None), ("sft", "stages/1-pretrain")]
    assert {(s["name"], s["stage"]) for s in manifest["data"]["sources"]} == {("tales", "pretrain"), ("talks", "sft")}
    tasks = json.loads((tmp_path / "out/evaluation/results.json").read_text("utf-8"))["results"]
    assert {"sft_heldout", "heldout", "heldout_tales"} == set(tasks)
    assert "It is a base model" not in (tmp_path / "out/README.md").read_text("utf-8")


def test_changed_conversations_are_named(talks, tmp_path):  # noqa: F811
    path = talks / "talks.jsonl"
    kept = path.read_bytes()
    path.write_bytes(kept + b"\n")
    try:
        with pytest.raises(CheckpointError, match=r"talks\.jsonl was changed since the run read it"):
            build(talks / "taught", tmp_path / "out", dataclasses.replace(OFFLINE, about=str(talks / "about.toml")), quiet)
    finally:
        path.write_bytes(kept)


# ---- what is refused -------------------------------------------------------------------------------------------------


def refused(run, tmp_path, error, match, **changes):
    """The build stops with this error and leaves nothing."""
    with pytest.raises(error, match=match):
        build(run, tmp_path / "out", dataclasses.replace(OFFLINE, **changes), quiet)
    assert not [p for p in tmp_path.iterdir() if p.name == "out" or p.name.startswith(".unfinished")]


@pytest.fixture
def run(tales, tmp_path):  # noqa: F811
    """A copy of the tiny run that may be spoilt."""
    return shutil.copytree(tales / "base", tmp_path / "run")


def test_source_without_licence_is_named(run, tmp_path):
    refused(run, tmp_path, LicenceError, r"source tales states no licence .*--about FILE: \[sources\.\"tales\"\]")


def test_unknown_licence_is_named_with_the_nearest(run, tmp_path):
    refused(run, tmp_path, LicenceError, r"--licence: 'MITT'.*did you mean MIT", licence="MITT")


def test_run_without_evaluation_is_named(run, tales, tmp_path):  # noqa: F811
    lines = (run / "log.jsonl").read_text("utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["kind"] != "eval"]
    (run / "log.jsonl").write_text("\n".join(kept) + "\n", "utf-8")
    about = str(tales / "about.toml")
    refused(run, tmp_path, CheckpointError, "has no evaluation after its last step", about=about)


def test_changed_weights_are_named(run, tales, tmp_path):  # noqa: F811
    path = run / "checkpoints/step-000004/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(run, tmp_path, CheckpointError, r"model\.safetensors has other contents", about=str(tales / "about.toml"))


def test_missing_file_is_named(run, tales, tmp_path):  # noqa: F811
    (run / "checkpoints/step-000004/config.json").unlink()
    refused(run, tmp_path, CheckpointError, r"config\.json is missing", about=str(tales / "about.toml"))


def test_unfinished_run_is_named(run, tmp_path):
    for name in ("step-000004",):
        shutil.rmtree(run / "checkpoints" / name)
    refused(run, tmp_path, CheckpointError, r"is not finished \(step 2 of 4\)")


@pytest.mark.skipif(os.name != "posix", reason="file modes are a POSIX matter")
def test_key_that_others_can_read_is_refused(run, tmp_path):
    key = make_key(tmp_path / "key.pem")
    key.chmod(0o644)
    refused(run, tmp_path, RecipeError, r"can be read by others \(mode 644\): chmod 600", key=str(key))
    assert stat.S_IMODE(key.stat().st_mode) == 0o644


def test_no_key_and_other_files_are_refused(run, tmp_path):
    (tmp_path / "no.pem").write_text("no key")
    (tmp_path / "no.pem").chmod(0o600)
    refused(run, tmp_path, RecipeError, "is no private key in PEM form", key=str(tmp_path / "no.pem"))
    refused(run, tmp_path, RecipeError, "No such file", key=str(tmp_path / "missing.pem"))


def test_unknown_key_of_about_is_named(run, tmp_path):
    (tmp_path / "about.toml").write_text('[producer]\nnmae = "x"\n')
    refused(run, tmp_path, RecipeError, r"\[producer\] has no key 'nmae'", about=str(tmp_path / "about.toml"))


def test_folder_that_is_not_empty_is_left_alone(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(RecipeError, match="is not empty"):
        build(run, tmp_path / "out", OFFLINE, quiet)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_build_that_fails_half_way_leaves_nothing(run, tales, tmp_path, monkeypatch):  # noqa: F811
    from seekling.release import build as room

    def fails(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "write_data", fails)
    with pytest.raises(KeyboardInterrupt):
        build(run, tmp_path / "out", dataclasses.replace(OFFLINE, about=str(tales / "about.toml")), quiet)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_command_line_ends_with_code_2_and_one_line(run, tmp_path, capsys):
    assert main(["release", str(run), "--out", str(tmp_path / "out"), "--offline"]) == 2
    assert capsys.readouterr().err.startswith("error: this cannot be released: source tales states no licence")
