"""Task 05: let a language model reply to a guest's review of the Riverview Hotel.

The prompt guides the reply. It gives the model a role and the length of the reply, and says what to
thank for, what to apologise for, and what never to invent. A model trained for conversations gets
the prompt as a user's message in its chat template, with its thinking mode switched off. Any other
model gets it as plain text.

    python task05.py
    python task05.py --temperature 0.7 --seed 1        sample the reply; each seed gives another
    python task05.py --model DIR                       another decoder

About a minute after a download of 1.5 GB. Without --temperature the reply is always the same.
"""

from __future__ import annotations

import re

import bundled
import common

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

# Follows instructions well for its size (Apache-2.0). Larger models are slow on a CPU.
MODEL = "Qwen/Qwen3-0.6B"
MAX_NEW_TOKENS = 160  # about twice the length of five sentences
REVIEW = (
    "I had a wonderful stay at the Riverview Hotel! The staff were incredibly attentive and the "
    "amenities were top-notch. The only hiccup was a slight delay in room service, but that didn't "
    "overshadow the fantastic experience I had."
)
PROMPT = """\
You answer the reviews of guests for the reception of the Riverview Hotel.
Write a reply of three to five sentences to the review below, in warm and polite English.
Thank the guest for the review and for everything that it praises.
Apologise once, without excuses, for everything that it complains about.
Never invent anything: no names, no reasons, no discounts, no promises, nothing about the stay \
that the review does not say.
Write nothing but the reply, without a subject and without a signature.

Review: {review}

Reply:"""


def reply(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, review: str, temperature: float
) -> str:
    """Return the model's reply to a review; at temperature 0 it is decoded greedily."""
    prompt = PROMPT.format(review=review)
    is_chat = tokenizer.chat_template is not None
    if is_chat:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,  # ends where the model's answer begins
            enable_thinking=False,  # Qwen3 would otherwise write its reasoning first
        )
    inputs = tokenizer(
        prompt,
        return_tensors="pt",
        return_token_type_ids=False,  # decoders do not take them
        add_special_tokens=not is_chat,  # the template contains them already
    ).to(model.device)
    prompt_length = inputs["input_ids"].shape[1]
    common.check_context(model, prompt_length + MAX_NEW_TOKENS)
    common.clear_generation_settings(model)
    sampling = {"temperature": temperature, "top_k": 0} if temperature else {}
    tokens = model.generate(  # (1, time)
        **inputs,
        max_new_tokens=MAX_NEW_TOKENS,  # a limit for models that do not stop by themselves
        do_sample=temperature > 0,  # sample each token, or take the most likely one,
        num_beams=1,  # in a single continuation
        **sampling,  # from the whole vocabulary, not from the 50 most likely tokens
    )
    return tokenizer.decode(tokens[0, prompt_length:], skip_special_tokens=True).strip()


def complete_sentences(text: str) -> str:
    """Cut a text off after its last complete sentence, if it has one."""
    match = re.match(r""".*[.!?]["')]*(?=\s|$)""", text, flags=re.DOTALL)
    return match[0] if match else text


def main(argv: list[str] | None = None) -> int:
    """Print the review and the reply to it."""
    parser = common.argument_parser(__doc__, "--seed", "--device", model=MODEL)
    text = "sample the reply; higher values give more varied words (default: 0, no sampling)"
    parser.add_argument("--temperature", type=common.temperature, default=0, help=text)
    arguments = parser.parse_args(argv)
    folder = common.find_model(arguments.model, bundled.CHAT_MODEL)
    tokenizer = common.load(AutoTokenizer, folder)
    model = common.load(AutoModelForCausalLM, folder).to(common.select_device(arguments.device))
    common.seed_everything(arguments.seed)
    with common.checkpoint_errors(folder):
        answer = reply(model, tokenizer, REVIEW, arguments.temperature)
    print(f"Customer review:\n{REVIEW}\n")
    print(f"Hotel reponse to the customer:\n{complete_sentences(answer)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
