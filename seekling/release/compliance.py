"""Statements that laws and frameworks ask for: the EU's public summary of training content in its template's order, a copyright
policy, China's labelling, and the Model Openness Tool's file. What only a person can say is marked ``TO BE FILLED``.

Nothing here is legal advice, and the files say so.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.release.escape import inline
from seekling.release.layout import COMPONENTS, COPYRIGHT, DATA_CARD, EU_SUMMARY, FILL, LABELLING, MOF
from seekling.release.material import CODE_LICENCE, eu_lines

if TYPE_CHECKING:
    from seekling.release.material import Release
    from seekling.release.sources import SourceFacts

NONE = "Not applicable: there is none."


def write_statements(folder: Path, release: "Release", components: list[dict[str, Any]]) -> None:
    """Everything under compliance/."""
    (folder / EU_SUMMARY).parent.mkdir(parents=True)
    (folder / EU_SUMMARY).write_text(eu_summary(release), "utf-8")
    (folder / COPYRIGHT).write_text(copyright_policy(release), "utf-8")
    (folder / LABELLING).write_text(labelling(release), "utf-8")
    (folder / MOF).write_text(mof_yaml(release, components), "utf-8")


# ---- European Union --------------------------------------------------------------------------------------------------


def band(tokens: int) -> str:
    """The template's size bands for text."""
    if tokens < 10**9:
        return "less than 1 billion tokens"
    return "1 billion to 10 trillion tokens" if tokens <= 10**13 else "more than 10 trillion tokens"


def eu_summary(release: "Release") -> str:
    """The AI Office's template of 24 July 2025, section by section."""
    who, said, sources = release.about.producer, release.about.eu, release.chain.sources
    real = [s for s in sources if not s.synthetic]
    synthetic = [s for s in sources if s.synthetic]
    public = [s for s in real if s.url or s.kind in ("package", "hub")]
    private = [s for s in real if s not in public]
    tokens = sum(s.tokens or 0 for s in sources)
    latest = max((s.obtained for s in sources if s.obtained), default=release.date[:7])
    bases = ", ".join(f"{a.name} ({a.revision or 'version not stated'})" for a in release.chain.base_models)
    small = all(s.kind in ("package", "hub", "generated", "task") for s in sources)
    opt_out = said.get("opt_out") or (
        "No web page was crawled, so no robots.txt or other reservation of rights had to be read. The texts were taken from "
        "packages "
        "whose licences, listed above, allow this use or which are in the public domain. The Code of Practice was not signed."
        if small
        else f"{FILL}: measures to honour reservations of rights under Article 4(3) of Directive (EU) 2019/790."
    )
    illegal = said.get("illegal_content") or (
        "The sources are published literature, encyclopaedia paragraphs and text written by seeded programs; they were "
        "chosen by name. "
        "No automatic removal was run."
        if small
        else f"{FILL}: measures to avoid or remove illegal content."
    )
    rows = [
        "# Public summary of training content",
        "*In the order of the European Commission's template for Article 53(1)(d) of Regulation (EU) 2024/1689 (24 July "
        "2025). Filled by "
        f"seekling release on {release.date[:10]}; not legal advice.*",
        "## 1. General information",
        "### 1.1 Provider",
        f"- Provider: {inline(who.get('name') or FILL)}\n- Contact: {inline(who.get('contact') or FILL)}\n"
        f"- Authorised representative: {inline(who.get('representative') or 'Not applicable, or not named.')}",
        "### 1.2 Model",
        f"- Model and version: {inline(release.name)} {inline(release.version)}\n"
        f"- Models it depends on: {inline(bases) if bases else 'None: it was trained from random weights.'}\n"
        f"- Date of placement on the Union market: {inline(said.get('market_date') or release.date[:10])}",
        "### 1.3 Modalities, size and characteristics of the training data",
        f"- Modality: text. Image, audio, video, other: not applicable.\n- Size: {band(tokens)} ({tokens:,} tokens, "
        f"repetitions counted).\n"
        f"- Types of content: {inline(_types(sources))}\n- Latest date of acquisition: {inline(latest)}\n"
        f"- Languages: {inline(', '.join(release.languages))}\n- Other characteristics: {inline(said.get('other') or 'none')}",
        *(f"- {inline(line)}" for line in eu_lines(release.compute)),
        "## 2. Data sources",
        "### 2.1 Publicly available data sets",
        _rows(public) or NONE,
        "### 2.2 Private data sets",
        "#### 2.2.1 Licensed by rights holders",
        _rows([s for s in private if s.licence.startswith("LicenseRef-") and s.licence != "LicenseRef-Public-Domain"]) or NONE,
        "#### 2.2.2 Other private data sets",
        _rows([s for s in private if not s.licence.startswith("LicenseRef-") or s.licence == "LicenseRef-Public-Domain"])
        or NONE,
        "### 2.3 Data crawled and scraped from online sources",
        "Not applicable: no crawler was used by or for the provider. (Crawler name, period, domains: not applicable.)",
        "### 2.4 User data",
        "Not applicable: no data of users of any service was used.",
        "### 2.5 Synthetic data",
        "\n".join(f"- {inline(s.name)} ({s.stage}): {inline(s.generator)}" for s in synthetic) or NONE,
        "### 2.6 Other sources",
        NONE,
        "## 3. Data processing aspects",
        "### 3.1 Respect of reservations of rights from text and data mining",
        inline(opt_out),
        "### 3.2 Removal of illegal content",
        inline(illegal),
        "### 3.3 Other information",
        "The data card (data/README.md) and data/manifest.json list every source with version, licence, hash, size and share.",
    ]
    return "\n\n".join(rows) + "\n"


def _types(sources: tuple["SourceFacts", ...]) -> str:
    return "; ".join(dict.fromkeys(s.about for s in sources if s.about)) or "not described"


def _rows(sources: list["SourceFacts"]) -> str:
    return "\n".join(
        f"- {inline(s.name)}: {inline(s.about or 'not described')}; {inline(s.url or s.where)}"
        f"{' ' + inline(s.version) if s.version and s.version not in (s.url or '') else ''}; {inline(s.licence)}; "
        f"{'size not known' if s.bytes is None else f'{s.bytes:,} bytes'}"
        for s in sources
    )


def copyright_policy(release: "Release") -> str:
    """What Article 53(1)(c) asks an open release to have."""
    share_alike = sorted({s.licence for s in release.chain.sources if "-SA-" in s.licence})
    rows = [
        "# Copyright policy of this release",
        "Text is taken from published packages and data sets whose licence allows copying, change and sharing, or which are "
        "in the public "
        "domain; from files for which the publisher states a licence; and from seeded programs. A source without a licence "
        "stops the "
        "release. No page was crawled; a reservation of rights (Article 4(3) of Directive (EU) 2019/790) would be honoured "
        "by leaving the "
        "source out.",
        "Authors and terms of every source are in data/README.md; the texts of their licences are in LICENSES/.",
    ]
    if share_alike:
        rows.append(
            f"Some text is under {', '.join(share_alike)}, whose share-alike condition binds adaptations of the text: where "
            f"text is in this "
            "release it stays under its licence. Whether weights are an adaptation of what they were trained on is not "
            "settled; this "
            "release states its own terms for the weights and says so here."
        )
    rows.append(f"Complaints: {inline(release.about.producer.get('contact') or FILL)}. Not legal advice.")
    return "\n\n".join(rows) + "\n"


# ---- China -----------------------------------------------------------------------------------------------------------


def labelling(release: "Release") -> str:
    """How marks of generated content are made with this software, in Chinese and English."""
    name, version = inline(release.name), inline(release.version)
    parts = [
        "# 生成合成内容标识说明 / Statement on labelling of generated content",
        "## 中文",
        f"本发布包含语言模型 {name}（版本 {version}）的权重、代码与文档。权重本身不是面向公众的服务；以其向公众提供"
        "生成式人工智能服务者，应依《人工智能生成合成内容标识办法》（国信办通字〔2025〕2号）及强制性国家标准"
        " GB 45438-2025 履行标识义务。",
        "- 显式标识：在文本的起始、末尾或中间适当位置，或在交互界面，标明“人工智能生成”等"
        "含“人工智能”或“AI”与“生成”"
        "或“合成”字样的提示；用户下载、复制、导出的文件中应含有该标识。\n"
        "- 隐式标识：在文件元数据中写入键 `AIGC`，其值为含 Label、ContentProducer、ProduceID、ReservedCode1、"
        "ContentPropagator、PropagateID、ReservedCode2 的 JSON 字符串。\n"
        "- 模型权重中不含水印；是否添加由服务提供者决定。\n"
        f"- 训练数据来源、规模、语种及许可见 `{DATA_CARD}` 与 `{EU_SUMMARY}`。\n"
        "- 本发布未作算法备案；如用于公众服务，备案与安全评估由服务提供者办理。",
        "## English",
        f"These are weights, code and documents of the language model {name} {version}. Weights are not a service. Whoever "
        "offers a generative service to the public in mainland China with them has the duties of the Labelling Measures (in "
        "force 1 September 2025) and of GB 45438-2025: an explicit mark near the content and in exported files, and an "
        "implicit one in the metadata under the key `AIGC`. The weights carry no watermark. Nothing was filed for this model. "
        "Not legal advice.",
    ]
    return "\n\n".join(parts) + "\n"


# ---- Model Openness Tool ---------------------------------------------------------------------------------------------


def mof_yaml(release: "Release", components: list[dict[str, Any]]) -> str:
    """The file the Model Openness Tool reads (its schema/mof_schema.json): components, places and licences."""
    import yaml

    names = {c.key: c.name.replace("(final)", "(Final)").replace("(intermediate)", "(Intermediate)") for c in COMPONENTS}
    rows = [
        {
            "name": names[found["key"]],
            "description": found.get("note", ""),
            "license": found["licence"],
            "license_path": f"LICENSES/{found['licence']}.txt" if " " not in found["licence"] else "LICENSES",
            "component_path": found["paths"][0],
        }
        for found in components
    ]
    options = release.options
    stages = [f["verb"] for f in release.stage_facts]
    document = {
        "framework": {"name": "Model Openness Framework", "version": "1.0", "date": "2024-12-15"},
        "release": {
            "name": release.name,
            "version": release.version,
            "license": {
                "distribution": {"name": None, "path": None},
                "code": {"name": CODE_LICENCE, "path": f"LICENSES/{CODE_LICENCE}.txt"},
                "data": {"name": options.licence, "path": "LICENSE"},
                "document": {"name": options.documents, "path": f"LICENSES/{options.documents}.txt"},
            },
            "date": release.date[:10],
            "type": "language",
            "architecture": "transformer decoder",
            "treatment": "pre-trained" if stages == ["pretrain"] else "instruct fine-tuned",
            "origin": release.chain.base_models[0].name if release.chain.base_models else "",
            "producer": release.producer,
            "contact": release.about.producer.get("contact", ""),
            "components": rows,
        },
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
