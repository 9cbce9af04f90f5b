"""What the registry sample is made of: pinned packages, their recordings, and what is said in them.

The packages are read, never installed: only the members named here leave the archive.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Clip:
    """One recording: its name in the sample, its member in the archive, and the sha256 of that member.

    `wav_sha256` is set where the member is headerless 16 kHz 16-bit mono and becomes a wav here.
    `text_as_shipped` is set where the package's own transcript is not what is said.
    """

    name: str
    member: str
    sha256: str
    text: str | None
    speaker: str | None
    text_as_shipped: str | None = None
    wav_sha256: str | None = None

    @property
    def file_sha256(self) -> str:
        """Digest of the wav file in the sample."""
        return self.wav_sha256 or self.sha256


@dataclass(frozen=True)
class Package:
    """One file of a package index, the recordings taken from it, and whose they are."""

    project: str
    filename: str
    sha256: str
    notice: str
    clips: tuple[Clip, ...]


PACKAGES = (
    Package(
        "inferencebench_voice",
        "inferencebench_voice-0.1.0-py3-none-any.whl",
        "e539f76faeca3dd86a3ce180af9a0b7c6e9b518b46d365b52a72af621b67283b",
        notice=(
            "Package: Apache-2.0. Recordings and transcripts: LibriSpeech dev-clean (Panayotov, Chen, "
            "Povey, Khudanpur, ICASSP 2015), CC BY 4.0."
        ),
        clips=(
            Clip(
                "1272-135031-0013",
                "inferencebench_voice/datasets/audio/ls-001.wav",
                "1297682dd3faeb7c9e3c936eb707aaeb6c344c20ce468d4c752002035955a543",
                text="INQUIRED SHAGGY IN THE METAL FOREST",
                speaker="1272",
            ),
            Clip(
                "1272-128104-0008",
                "inferencebench_voice/datasets/audio/ls-002.wav",
                "9514dcfa2f52cd7540c686c555213ca539b7ec8913b93913d14bfed151bdb72e",
                text="AS FOR ETCHINGS THEY ARE OF TWO KINDS BRITISH AND FOREIGN",
                speaker="1272",
            ),
            Clip(
                "1272-135031-0007",
                "inferencebench_voice/datasets/audio/ls-003.wav",
                "be046b1ca20292a992dca5f69ddc4d9f295c2512b05b6caf4181190f7c28571c",
                text="HE EATS AND SLEEPS VERY STEADILY REPLIED THE NEW KING",
                speaker="1272",
            ),
            Clip(
                "1272-135031-0008",
                "inferencebench_voice/datasets/audio/ls-004.wav",
                "5d9983f61b0aaba008a793f922309056d2325d25162ec48c4cae72a7295bc13b",
                text="I HOPE HE DOESN'T WORK TOO HARD SAID SHAGGY",
                speaker="1272",
            ),
            Clip(
                "1272-135031-0011",
                "inferencebench_voice/datasets/audio/ls-005.wav",
                "824bd0b7c14c6af394fa0fcb7d79a0aa6e41419833dc070d53046d0e6685b1ff",
                text="NOT EXACTLY RETURNED KALIKO",
                speaker="1272",
            ),
        ),
    ),
    Package(
        "pocketsphinx",
        "pocketsphinx-5.1.1.tar.gz",
        "675778b309a22dfc9b7d37f7621976bba491d2a5f8c59696bd77fd6d07271355",
        notice=(
            'Package: BSD-2-Clause, Carnegie Mellon University. The five librivox recordings ("Sense and '
            'Sensibility") are from LibriVox, public domain.'
        ),
        clips=(
            Clip(
                "librivox-0870",
                "pocketsphinx-5.1.1/test/data/librivox/sense_and_sensibility_01_austen_64kb-0870.wav",
                "b0557cf95c974d930577e58e46b7f068c432a6e3afcc286563d88922b2a5315c",
                text=(
                    "and mister john dashwood had then leisure to consider how much there might be "
                    "prudently in his power to do for them"
                ),
                speaker="librivox",
            ),
            Clip(
                "librivox-0880",
                "pocketsphinx-5.1.1/test/data/librivox/sense_and_sensibility_01_austen_64kb-0880.wav",
                "fbec491ef00ee734a67f0ee318e98c51c157b479e1629ff4f4426861ecac0414",
                text="he was not an ill disposed young man",
                speaker="librivox",
            ),
            Clip(
                "librivox-0890",
                "pocketsphinx-5.1.1/test/data/librivox/sense_and_sensibility_01_austen_64kb-0890.wav",
                "5793ffbdee55fb8bfd284943a6866864c832d9d4accf2661cabd39915c84ee10",
                text="unless to be rather cold hearted and rather selfish is to be ill disposed",
                speaker="librivox",
            ),
            Clip(
                "librivox-0920",
                "pocketsphinx-5.1.1/test/data/librivox/sense_and_sensibility_01_austen_64kb-0920.wav",
                "40882414ef4cc51f3ff7a63bad0c8c87e7f595ffeb8209fbf756c8ebc5c28a59",
                text=(
                    "had he married a more a amiable woman he might have been made still more respectable than he was"
                ),
                speaker="librivox",
            ),
            Clip(
                "librivox-0930",
                "pocketsphinx-5.1.1/test/data/librivox/sense_and_sensibility_01_austen_64kb-0930.wav",
                "954adbf0b56ac8a148cbe77b39ca18d76b5f2a1e1f405565bd786ce3e68a68b7",
                text="he might even have been made amiable himself",
                speaker="librivox",
            ),
            Clip(
                "cards-001",
                "pocketsphinx-5.1.1/test/data/cards/001.wav",
                "899951e768666f27c8f8b1d4090b96fe7909cae9cec01bec0a5d5d1b8a8d566e",
                text="ten of clubs",
                speaker="cards",
            ),
            Clip(
                "cards-002",
                "pocketsphinx-5.1.1/test/data/cards/002.wav",
                "a3f9eae6fdb69a1231989e39a14d62388a6f52fb59666c76d95005318fadafec",
                text="four queen of clubs",
                speaker="cards",
            ),
            Clip(
                "cards-003",
                "pocketsphinx-5.1.1/test/data/cards/003.wav",
                "00d283e46bc257ae479e4aa86593cadb541656eba1d19fc8abeece37f6a5a18b",
                text="seven of clubs",
                speaker="cards",
            ),
            Clip(
                "cards-004",
                "pocketsphinx-5.1.1/test/data/cards/004.wav",
                "4c44a8177f5b128b99f078cdeb918119933155574231f1833e8840d1af09c521",
                text="five five",
                speaker="cards",
            ),
            Clip(
                "cards-005",
                "pocketsphinx-5.1.1/test/data/cards/005.wav",
                "090f18f5f76cf8b2b43cd9e6b07823f4685a4742d9a36cd98b174a6586c18cf9",
                text="eight of spades four of clubs seven of hearts",
                speaker="cards",
            ),
            Clip(
                "goforward",
                "pocketsphinx-5.1.1/test/data/goforward.raw",
                "f15c60ec54059d8b66e410d0064945a0b0a04ea56e1ddca1958e493c0cf70e71",
                text="go forward ten meters",
                speaker="goforward",
                wav_sha256="97ec638609b9c7eeb616764b4e5713d7ed2d0a8e1a2f8246631d9074d47aaf11",
            ),
        ),
    ),
    # The sentences are of the Harvard list ("IEEE Recommended Practice for Speech Quality Measurements",
    # 1969). Four transcripts are wrong: TUE is "two", WORE is "war"; spk2_snt3 lacks an "a", has SHEEP for
    # "sheet", OTHER for "yellow" and PAT for "pad"; and spk2_snt5 is another sentence altogether (KEN PAIRS
    # would be "canned pears"). The package's own phones (annotation/ASR_*.json) and
    # what Whisper hears agree on all four.
    Package(
        "speechbrain",
        "speechbrain-1.0.1.tar.gz",
        "521202e32ba05ceb69db2908928b8eafdabd8c4674525d2734333d1c29f1ca70",
        notice=("Package: Apache-2.0. Test recordings of the package, whose origin it does not state."),
        clips=(
            Clip(
                "spk1-snt1",
                "speechbrain-1.0.1/tests/samples/ASR/spk1_snt1.wav",
                "2f7315ccf543b6368528b098cd895098c154f222cd55ff7b5f66b50feb383c56",
                text="THE CHILD ALMOST HURT THE SMALL DOG",
                speaker="spk1",
            ),
            Clip(
                "spk1-snt2",
                "speechbrain-1.0.1/tests/samples/ASR/spk1_snt2.wav",
                "e1f125a318f4026991bf78f5c41481be0fbcf9b3b2fd72284f9824cb851c3034",
                text="DROP THE TWO WHEN YOU ADD THE FIGURES",
                speaker="spk1",
                text_as_shipped="DROP THE TUE WHEN YOU ADD THE FIGURES",
            ),
            Clip(
                "spk1-snt3",
                "speechbrain-1.0.1/tests/samples/ASR/spk1_snt3.wav",
                "dc85f251ecb6f89652e8e3add9f35a39e86cb64a48384c89255437fd0f1bbc69",
                text="AT THAT HIGH LEVEL THE AIR IS PURE",
                speaker="spk1",
            ),
            Clip(
                "spk1-snt4",
                "speechbrain-1.0.1/tests/samples/ASR/spk1_snt4.wav",
                "719e441a93a3ec220dfc4337c30944aa1774847739ae9d461c3280b612cf869d",
                text="A THIN STRIPE RUNS DOWN THE MIDDLE",
                speaker="spk1",
            ),
            Clip(
                "spk1-snt5",
                "speechbrain-1.0.1/tests/samples/ASR/spk1_snt5.wav",
                "6972d80554dfb14e5ad23c7b355a870e9beb18ab2331fbd4b12ff1777e6ed277",
                text="SUNDAY IS THE BEST PART OF THE WEEK",
                speaker="spk1",
            ),
            Clip(
                "spk2-snt1",
                "speechbrain-1.0.1/tests/samples/ASR/spk2_snt1.wav",
                "5f3f534ba99f159358c6ee2e4fb5e42b3b9399f37f4e290651405c76095f26f0",
                text="WE ARE SURE THAT ONE WAR IS ENOUGH",
                speaker="spk2",
                text_as_shipped="WE ARE SURE THAT ONE WORE IS ENOUGH",
            ),
            Clip(
                "spk2-snt2",
                "speechbrain-1.0.1/tests/samples/ASR/spk2_snt2.wav",
                "589bcda06796c124544138d7ff40562c146be5e06c1765f2fb4d27c22d19ea8a",
                text="WHAT JOY THERE IS IN LIVING",
                speaker="spk2",
            ),
            Clip(
                "spk2-snt3",
                "speechbrain-1.0.1/tests/samples/ASR/spk2_snt3.wav",
                "3831efa2081105f8c820312e83f605a320581761c75c52e06f908a12a5da8472",
                text="TEAR A THIN SHEET FROM THE YELLOW PAD",
                speaker="spk2",
                text_as_shipped="TEAR THIN SHEEP FROM THE OTHER PAT",
            ),
            Clip(
                "spk2-snt4",
                "speechbrain-1.0.1/tests/samples/ASR/spk2_snt4.wav",
                "6dfc7295435a97f2b50c5e95e895fe223b56c61d64a4e0bcb3a663e45f893f4f",
                text="MEND THE COAT BEFORE YOU GO OUT",
                speaker="spk2",
            ),
            Clip(
                "spk2-snt5",
                "speechbrain-1.0.1/tests/samples/ASR/spk2_snt5.wav",
                "cf312453d454a3e006ac84ef84bd5880452b57e1a8d717f7e37dae65ceec8044",
                text="JUMP THE FENCE AND HURRY UP THE BANK",
                speaker="spk2",
                text_as_shipped="KEN PAIRS LACK FULL FLAVOR",
            ),
        ),
    ),
    Package(
        "speechwidgets",
        "speechwidgets-1.0.1.tar.gz",
        "d970c05692991a82f2a9cf0215ebd071a618631d0b663fbcb3bb1e2b73bbdd6f",
        notice=(
            "Package: BSD-3-Clause. Recording and transcript: LibriSpeech train (Panayotov, Chen, Povey, "
            "Khudanpur, ICASSP 2015), CC BY 4.0."
        ),
        clips=(
            Clip(
                "19-198-0001",
                "speechwidgets-1.0.1/examples/19-198-0001.wav",
                "fffb2b4f9994b690e14bd9b894d277a7d5c79733037ed4e8e936e9585aa0b76f",
                text=(
                    "this little work was finished in the year eighteen o three and intended for "
                    "immediate publication it was disposed of to a bookseller it was even advertised"
                ),
                speaker="19",
            ),
        ),
    ),
    # The recordings are the same in the wheels of all platforms; this is the smallest wheel.
    Package(
        "moonshine_voice",
        "moonshine_voice-0.1.5-py3-none-win_amd64.whl",
        "7fc9a84e827360ddb85c2735f44a1502c5575c27dcb476a2555646cd20a70e9d",
        notice=(
            "Package: MIT. Readings of Beckett and Dickens that the package ships without transcripts "
            "or a licence of their own: for calibration on this machine, not for passing on."
        ),
        clips=(
            Clip(
                "beckett",
                "moonshine_voice/assets/beckett.wav",
                "e5a26b3d29e5b0bc8dbd72c11d16a3808a4ec0ac45b21f12a27d2a2fe5c5ae61",
                text=None,
                speaker=None,
            ),
            Clip(
                "endgame-nagg-nell",
                "moonshine_voice/assets/endgame_nagg_nell.wav",
                "78f44dc6d3da32ecab0c37f391700f0569f4612b8e0be2ecbaf33e1d3d566474",
                text=None,
                speaker=None,
            ),
            Clip(
                "two-cities",
                "moonshine_voice/assets/two_cities.wav",
                "f3348494d77cb74a02862f5e685ed09faf3e75832c5cc5c80703282c2cd8b52e",
                text=None,
                speaker=None,
            ),
        ),
    ),
)
