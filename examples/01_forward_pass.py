# %% [markdown]
# # 1. A forward pass, shape by shape
#
# Three texts of different length go through a small BERT. We follow the shapes from token ids to
# hidden states, first padded, then packed, and see that both give the same numbers.
#
# Run it: `python examples/01_forward_pass.py` (a second, no network, random weights).

# %%
import torch

import minilm

torch.manual_seed(0)
config = minilm.BertConfig(
    vocab_size=1000,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
)
model = minilm.BertModel(config).eval()
print(f"{model.num_parameters():,} parameters")

# %% [markdown]
# ## Padded
# A batch is a rectangle, so the shorter texts are filled up with padding (id 0). The mask says what
# is text: 1 = attend, 0 = ignore.

# %%
input_ids = torch.tensor(
    [
        [2, 45, 318, 27, 99, 3],
        [2, 61, 3, 0, 0, 0],
        [2, 45, 77, 3, 0, 0],
    ]
)
attention_mask = (input_ids != 0).long()
with torch.no_grad():
    out = model(input_ids, attention_mask, output_hidden_states=True, output_attentions=True)

print("input_ids          ", tuple(input_ids.shape), " (B, S)")
print("hidden_states      ", len(out.hidden_states), "x", tuple(out.hidden_states[0].shape))
print("attentions         ", len(out.attentions), "x", tuple(out.attentions[0].shape))
print("last_hidden_state  ", tuple(out.last_hidden_state.shape), " (B, S, H)")
print("pooler_output      ", tuple(out.pooler_output.shape), " (B, H)")

# %% [markdown]
# Every row of an attention map is a probability distribution over the tokens of the same text.
# Padding gets exactly nothing:

# %%
second_text = out.attentions[0][1, 0]  # (S, S): first layer, second text, first head
print("attention of the first token of text 2:", [round(p, 3) for p in second_text[0].tolist()])
assert torch.allclose(second_text.sum(-1), torch.ones(6))
assert not second_text[:, 3:].any()

# %% [markdown]
# ## Packed
# The same texts in one line of 13 tokens, and their lengths. No padding exists, so no layer spends
# time on it. This is what the model does by itself whenever the mask has zeros.

# %%
line = input_ids[attention_mask.bool()]
lengths = attention_mask.sum(1)
with torch.no_grad():
    packed = model(line, lengths=lengths)
print("packed input_ids   ", tuple(line.shape), " (T,)   lengths", lengths.tolist())
print("last_hidden_state  ", tuple(packed.last_hidden_state.shape), " (T, H)")

difference = (packed.last_hidden_state - out.last_hidden_state[attention_mask.bool()]).abs().max()
print(f"largest difference between padded and packed: {difference:.0e}")
assert difference < 1e-5

# %% [markdown]
# ## Where the arithmetic is
# `minilm/blocks/attention.py` holds the arithmetic, `minilm/blocks/transformer.py` the layer,
# `minilm/models/bert.py` puts them together. Nothing else happens.
