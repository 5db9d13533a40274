"""Prompts to ids by a tiny tokenizer of the real library, compared with transformers' own use of it."""

import numpy as np
import pytest
import tokenizers
import transformers

from tm_jax.errors import InputError
from tm_jax.pretrained.tokenizer import clean, load_tokenizer

PIECES = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁cat", "▁talks", "s", "&", "t", "h", "e"]


@pytest.fixture
def folder(tmp_path):
    """A unigram tokenizer with T5's pieces, normalisation and closing mark."""
    vocabulary = [(piece, -float(i)) for i, piece in enumerate(PIECES)]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=2))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    made.enable_truncation(5)
    made.enable_padding(pad_id=0)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_ids_equal_transformers(folder):
    texts = ["  a \n cat\ttalks ", "a cat " * 20, "", "the cats &amp;amp; a"]
    reference = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>", eos_token="</s>"
    )
    expected = reference(
        [clean(text) for text in texts], padding="max_length", max_length=12, truncation=True
    )
    ids, mask = load_tokenizer(folder)(texts, length=12)
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, np.array(expected["attention_mask"], bool))
    assert [PIECES[i] for i in ids[0][mask[0]]] == ["▁a", "▁cat", "▁talks", "</s>"]
    assert mask.sum(1).tolist()[1:3] == [12, 1]
    assert load_tokenizer(folder)(["a"])[0].shape == (1, 512)


def test_cleaning():
    assert clean(" a  b\u00a0c\n&amp;lt;d&gt; ") == "a b c <d>"


def test_a_pipeline_keeps_it_one_folder_down(folder):
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer.json").rename(folder / "tokenizer" / "tokenizer.json")
    assert load_tokenizer(folder).end == 1


def test_each_fault_is_one_sentence(folder):
    file = folder / "tokenizer.json"
    text = file.read_text()
    file.write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match="can be read"):
        load_tokenizer(folder)
    file.write_text(text.replace("</s>", "</x>"))
    with pytest.raises(InputError, match="lacks"):
        load_tokenizer(folder)
    file.unlink()
    with pytest.raises(InputError, match=r"no tokenizer\.json: download"):
        load_tokenizer(folder)
    (folder / "spiece.model").touch()
    with pytest.raises(InputError, match=r"spiece\.model alone"):
        load_tokenizer(folder)
