"""What the names of folders and files say: good, defective, masks, a split, or a device's own."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal

Meaning = Literal["good", "defect", "mask", "train", "validation", "test", "unlabelled", ""]

# By language, accents taken off: English, German, Spanish, French, Italian, Portuguese, Russian, Polish, Turkish,
# Vietnamese, Czech, Dutch, Indonesian. Chinese, Japanese, Korean, Hindi and Thai come below.
_GOOD = """
good, ok, okay, normal, normals, pass, passed, accept, accepted, conforming, flawless, intact, undamaged,
healthy, clean
gut, gute, guten, gutteil, gutteile, io, i o, in ordnung, fehlerfrei, einwandfrei, normale
bueno, buenos, buena, buenas, bien, correcto, correctos, conforme, conformes, normales, apto, aptos, aceptado,
aceptados
bon, bons, bonne, bonnes, correct, normaux, accepte, acceptes
buono, buoni, buona, buone, conformi, normali, idoneo, idonei
bom, boa, boas, normais, aprovado, aprovados
хороший, хорошие, годный, годные, годен, норма, нормальный, нормальные, исправный, исправные, ок
dobry, dobre, dobra, poprawny, poprawne, prawidlowy, prawidlowe, normalny
iyi, saglam, uygun, hatasiz, kusursuz
tot, dat, binh thuong
v poradku
goed, goede, in orde
baik, bagus
"""
_DEFECT = """
bad, ng, nok, ko, defect, defects, defective, defected, faulty, fault, faults, fail, failed, failure, failures
reject, rejects, rejected, anomaly, anomalies, anomalous, abnormal, abnormals, abnormality, abnormalities,
damaged, damage
scrap, broken, nonconforming, nonconformity, outlier, outliers, flaw, flaws, flawed, unacceptable, dirty,
contaminated
schlecht, schlechte, schlechten, schlechtteil, schlechtteile, fehler, fehlerhaft, fehlerhafte, defekt, defekte,
ausschuss
nio, n i o, anomal, anomalie, anomalien, schaden, beschadigt, mangel, mangelhaft
malo, malos, mala, malas, defecto, defectos, defectuoso, defectuosos, defectuosa, defectuosas, rechazado,
rechazados
anomalia, anomalias, anormal, anormales, danado, danados, fallo, fallos
mauvais, mauvaise, mauvaises, defaut, defauts, defectueux, defectueuse, rebut, rebuts, rejete, rejetes,
anomalies, anormaux
cattivo, cattivi, difetto, difetti, difettoso, difettosi, difettosa, difettose, scarto, scarti, anomalo,
anomali, guasto
ruim, ruins, mau, defeito, defeitos, defeituoso, defeituosos, rejeitado, rejeitados, reprovado, reprovados,
refugo, anormais
плохой, плохие, брак, дефект, дефекты, дефектов, дефектный, дефектные, негодный, негодные, аномалия, аномалии,
повреждение
zly, zle, wada, wady, wad, wadliwy, wadliwe, uszkodzony, uszkodzone, brak, braki
kotu, kusur, kusurlu, hata, hatali, arizali, bozuk
loi, xau, hong, bat thuong, khong dat
spatny, spatne, vada, vady, vad, vadny, vadne, zmetek, zmetky, poskozeny
slecht, slechte, fout, fouten, afgekeurd
jelek, cacat, rusak
scratch, scratches, scratched, crack, cracks, cracked, dent, dents, dented, kratzer, riss, risse, delle, dellen
"""
_NOT = "not, no, non, nicht, kein, keine, pas, nao, не, khong, niet, nie, ne, tidak, un"
_WITHOUT = "no, not, non, without, ohne, sin, sans, senza, sem, без, bez, kein, keine, zonder, tanpa, khong"
_ANYWHERE = """
good, ok, okay, normal, normals, gut, gute, bueno, buenos, buono, buoni, bon, bons, bom, conforme, conformes, годные
bad, ng, nok, nio, schlecht, schlechte, brak, брак
"""  # words that mean it beside others as well, as in good_parts or NG-2024
_SCRIPTS: tuple[tuple[Meaning, str], ...] = (  # looked for inside of a name, the first that is found counts
    ("good", "无缺陷 無缺陷 无异常 無異常 无瑕疵 異常なし 欠陥なし 不良なし 결함없음 이상없음 निर्दोष"),
    ("defect", "不良 缺陷 瑕疵 异常 異常 不合格 次品 废品 廢品 不正常 坏件 划痕 裂纹 欠陥 不具合 キズ"),
    ("defect", "불량 결함 이상 불합격 비정상 เสีย ชำรุด ผิดปกติ ไม่ดี खराब ख़राब दोष असामान्य ng品"),
    ("good", "良品 合格 正常 好件 양품 정상 합격 양호 ปกติ ดี अच्छा अच्छे सही सामान्य ठीक ok品"),
    ("mask", "掩码 掩膜 标注 標註 标签 マスク ラベル 마스크 라벨"),
)
_OTHERS: dict[str, Meaning] = {
    **dict.fromkeys(("ground truth", "groundtruth", "gt", "mask", "masks", "label", "labels"), "mask"),
    **dict.fromkeys(("annotation", "annotations", "segmentation", "segmentations", "maske", "masken"), "mask"),
    **dict.fromkeys(("mascara", "mascaras", "masque", "masques", "maschera", "maschere", "маска", "маски"), "mask"),
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "tests", "testing", "test public"), "test"),
    **dict.fromkeys(("test private", "test private mixed"), "unlabelled"),
}
_SURE_MASKS = frozenset({"ground truth", "groundtruth", "mask", "masks"})
# Folders in which a NAS, an operating system or a program keeps thumbnails, backups and what was deleted
_KEPT = re.compile(
    r"[.@#$~].*|system volume information|lost\+found|recycle[rd]?|recycle bin|network trash folder|temporary items"
    r"|trash|deleted|papierkorb|corbeille|papelera|cestino|lixeira|回收站|__macosx|__pycache__|_?thumb(nail)?s?|found\.\d+",
    re.IGNORECASE,
)


def passed_over(name: str) -> bool:
    """Whether a folder of that name is hidden or a device's own: @eaDir, #recycle, $RECYCLE.BIN, thumbnails."""
    return _KEPT.fullmatch(name) is not None


@lru_cache(maxsize=4096)
def meaning(name: str) -> Meaning:
    """What a folder's or file's name says, in any of twenty languages; empty where it says nothing.

    The whole name counts, and so do the surest words beside others ("good_parts", "NG-2024", "不良品2"). A denied
    word means its opposite ("not ok", "nicht in Ordnung", "no defects"); what says both is a defect, since nothing
    doubtful may be trained on.
    """
    text = _plain(name)
    for found, parts in _SCRIPTS:
        if any(part in text for part in _plain(parts).split()):
            return found
    words = [word for word in re.split(r"[^\w]|_|\d+", text) if word]
    phrase = " ".join(words)
    if phrase in _OTHERS:
        return _OTHERS[phrase]
    said = {_one(phrase), *(_denied(words))}
    if said <= {""} and len(words) > 1:
        said = {_one(word) for word in words if word in _ANYWHERES}
    return "defect" if "defect" in said else "good" if "good" in said else ""


def means_masks_only(name: str) -> bool:
    """Whether a folder's name can hardly mean anything but masks; "labels" may also be the product."""
    return re.sub(r"[\W_]+", " ", _plain(name)).strip() in _SURE_MASKS


def _plain(name: str) -> str:
    """Lower case, without accents of Latin and Cyrillic letters."""
    parts = unicodedata.normalize("NFKD", name.casefold().replace("đ", "d").replace("ı", "i").replace("ł", "l"))
    return unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", parts))


def _words(text: str) -> frozenset[str]:
    return frozenset(_plain(word.strip()) for word in re.split(r"[,\n]", text) if word.strip())


_GOODS, _DEFECTS, _NOTS, _WITHOUTS = map(_words, (_GOOD, _DEFECT, _NOT, _WITHOUT))
_ANYWHERES = _words(_ANYWHERE) | {word for word in _DEFECTS if len(word) > 5 and " " not in word}


def _one(phrase: str) -> Meaning:
    return "good" if phrase in _GOODS else "defect" if phrase in _DEFECTS else ""


def _denied(words: list[str]) -> set[Meaning]:
    """What "not good", "nicht in ordnung", "no defects", "defect free" say."""
    found: set[Meaning] = set()
    for i, word in enumerate(words[:-1]):
        rest = [" ".join(words[i + 1 : end]) for end in range(i + 2, len(words) + 1)]
        if word in _NOTS and any(_one(phrase) == "good" for phrase in rest):
            found.add("defect")
        if word in _WITHOUTS and any(_one(phrase) == "defect" for phrase in rest):
            found.add("good")
        if words[i + 1] in ("free", "frei", "libre", "less") and _one(word) == "defect":
            found.add("good")
    return found
