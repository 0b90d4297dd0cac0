"""Task 05: let a language model reply to a guest's review of the Riverview Hotel.

The prompt guides the reply; it is printed on standard error. It begins with rules for thanks,
apologies and facts. Seven solved examples follow, all with the same structure. A language model
continues a text in the way in which the text began, so it fills this structure with the content of
the new review. Large models follow the rules alone. Small ones need the examples: without them the
bundled model repeats itself, or writes as if it were the guest.

    python task05.py
    python task05.py "The view was great. The bed was too short."        reply to your own review
    python task05.py --temperature 0.7 --seed 1        sample the reply; each seed gives another
    python task05.py --model bundled                   a small model, without a network
    python task05.py --model NAME                      another decoder, of the Hub or in a folder

About a minute, after a download of 1.5 GB; half a minute with the bundled model. Expect a reply
that thanks for service and amenities and apologises for the room service. The bundled model does
little more than fill in the form: where nothing is praised, or nothing is wrong, it invents
something. Without --temperature the reply is always the same.
"""

import re
import sys

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import bundled
import common

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
Thank the guest for everything that the review praises.
Apologise once, without excuses, for everything that it complains about.
Never invent anything that the review does not say.

Review: Everything was perfect. The garden is a dream and the cook is an artist!
Reply: Thank you for your kind review of the Riverview Hotel. We are delighted that you enjoyed \
the garden and the cooking. We hope to welcome you again soon.

Review: The pool was marvellous and the cocktails were delicious. It took half an hour to get our \
key.
Reply: Thank you for your kind review of the Riverview Hotel. We are delighted that you enjoyed \
the pool and the cocktails. We apologise for the long wait for your key. We hope to welcome you \
again soon.

Review: What a holiday! The sauna was great and the singer had a lovely voice.
Reply: Thank you for your kind review of the Riverview Hotel. We are delighted that you enjoyed \
the sauna and the singer. We hope to welcome you again soon.

Review: The porter helped us to find a taxi at five in the morning. The curtains in our room were \
torn.
Reply: Thank you for your kind review of the Riverview Hotel. We are delighted that you enjoyed \
the help of the porter. We apologise for the torn curtains in your room. We hope to welcome you \
again soon.

Review: The suite was huge and we slept very well. Our window did not close, so it was cold.
Reply: Thank you for your kind review of the Riverview Hotel. We are delighted that you enjoyed \
the huge suite and a good sleep. We apologise for the window that did not close. We hope to \
welcome you again soon.

Review: A charming little garden with old trees. Sadly the corridors are dark and we could not \
find our door.
Reply: Thank you for your kind review of the Riverview Hotel. We are delighted that you enjoyed \
the charming garden with old trees. We apologise for the dark corridors. We hope to welcome you \
again soon.

Review: The guide showed us the best beaches. The heating did not work in the dining room.
Reply: Thank you for your kind review of the Riverview Hotel. We are delighted that you enjoyed \
the help of the guide. We apologise for the heating that did not work in the dining room. We hope \
to welcome you again soon.

Review: {review}
Reply:"""


def reply(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, temperature: float
) -> str:
    """Return the text with which the model continues the prompt, up to the end of the line."""
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)
    prompt_length = inputs["input_ids"].shape[1]
    common.check_length(model, tokenizer, prompt_length + MAX_NEW_TOKENS)
    tokens = model.generate(  # (1, time)
        **inputs,
        max_new_tokens=MAX_NEW_TOKENS,  # a limit for models that do not stop by themselves
        do_sample=temperature > 0,  # draw each token at random; at 0, take the most likely one
        temperature=temperature or 1.0,  # divides the logits; a high value evens the probabilities
        top_k=0,  # draw from all tokens, not from the 50 most likely ones
        num_beams=1,  # write a single reply, not several in parallel
        stop_strings=["\n"],  # the reply is one line; the model would invent another review
        tokenizer=tokenizer,  # finds the stop strings
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
    parser.add_argument("--temperature", type=common.in_range(float, 0, 100), default=0, help=text)
    parser.add_argument(
        "review", nargs="?", type=common.not_empty, default=REVIEW, metavar="REVIEW"
    )
    arguments = parser.parse_args(argv)
    folder = common.find_model(arguments.model, MODEL, bundled.chat_model)
    tokenizer = common.load(AutoTokenizer, folder)
    device = common.select_device(arguments.device)
    model = common.load(AutoModelForCausalLM, folder).to(device)

    prompt = PROMPT.format(review=" ".join(arguments.review.split()))
    print(f"Prompt:\n{prompt}\n", file=sys.stderr)
    common.seed_everything(arguments.seed)
    with common.errors_in(folder):
        answer = complete_sentences(reply(model, tokenizer, prompt, arguments.temperature))
    print(f"Customer review:\n{arguments.review}\n")
    print(f"Hotel reponse to the customer:\n{common.printable(answer)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
