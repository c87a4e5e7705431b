#!/bin/sh
# Copies the documents of a built release (all but weights, checkpoints, code archive and text) into this folder:
#   docs/releases/nano/collect.sh seekling-nano
set -eu
here=$(dirname "$0")
for name in README.md report.md report.pdf report.json release.json SHA256SUMS figures data/README.md data/manifest.json evaluation bom compliance code/requirements.lock code/version.json stages/story.toml; do
    mkdir -p "$here/$(dirname "$name")"
    rm -rf "${here:?}/$name"
    cp -r "$1/$name" "$here/$(dirname "$name")/"
done
cp "$1/stages/1-pretrain/recipe.toml" "$here/recipe.toml"
