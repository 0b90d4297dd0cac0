"""Task 05: let a language model answer a guest's review of the Riverview Hotel.

The prompt does the work. It gives the model a role, says how long the reply is to be, what to
thank for, what to apologise for, and what never to invent; and because nothing else tells a model
what is meant, each of these is said outright. A model made for conversation gets the prompt as a
user's message in its chat template, with thinking off; any other gets it as plain text.

    python task05.py
    python task05.py --temperature 0.7 --seed 1        another reply for every seed
    python task05.py --model DIR                       a model of your own

About a minute after a download of 1.5 GB. Without a temperature the reply is always the same.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import common

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Follows instructions well for its size, under Apache-2.0; larger models answer late on a CPU.
MODEL = common.HubModel("Qwen/Qwen3-0.6B", "Apache-2.0", 1519)
MAX_NEW_TOKENS = 160  # twice what five sentences take
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


def as_chat(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """Return the prompt as the model has learnt to read what a user says, thinking off."""
    message = {"role": "user", "content": prompt}
    return tokenizer.apply_chat_template(
        [message], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )


def finished(reply: str) -> str:
    """Cut a reply after its last finished sentence, if it has one."""
    whole = re.match(r""".*[.!?]["')]*(?=\s|$)""", reply, flags=re.DOTALL)
    return whole[0] if whole else reply


def main(argv: list[str] | None = None) -> int:
    """Show the review, and the reply to it."""
    parser = common.argument_parser(__doc__, "--seed", "--device", model=MODEL)
    help_text = "above 0: draw the words, the more freely the higher"
    parser.add_argument("--temperature", type=common.number(0, 100), default=0, help=help_text)
    arguments = parser.parse_args(argv)
    model, tokenizer = common.load_pretrained("generator", arguments.model, MODEL, arguments.device)
    common.seed_everything(arguments.seed)

    prompt = PROMPT.format(review=REVIEW)
    is_chat = tokenizer.chat_template is not None
    drawn = {"do_sample": True, "temperature": arguments.temperature}
    reply = common.generate(
        model,
        tokenizer,
        as_chat(tokenizer, prompt) if is_chat else prompt,
        special_tokens=not is_chat,  # the template has put them there already
        max_new_tokens=MAX_NEW_TOKENS,
        **(drawn if arguments.temperature else {}),
    )
    print(f"Customer review:\n{REVIEW}\n")
    print(f"Hotel reponse to the customer:\n{finished(reply.strip())}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
