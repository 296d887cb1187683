"""What names say, in the languages that plants speak."""

from __future__ import annotations

import pytest

from edge_ad.data.words import meaning, means_masks_only, passed_over

GOOD = {
    "English": "good OK Normal normals passed accepted good_parts OK-2024 no_defects defect-free non-defective "
    "without%defects",
    "German": "gut Gutteile i.O. IO in%Ordnung fehlerfrei ohne%Fehler gute_Teile",
    "Chinese": "良品 合格 正常 合格品 无缺陷 無缺陷 良品2024",
    "Japanese": "良品 正常 合格 異常なし 欠陥なし",
    "Korean": "양품 정상 합격 결함없음",
    "Spanish": "bueno buenas correctos conformes sin%defectos apto",
    "French": "bon bonnes conforme sans%défaut sans_défauts normaux",
    "Italian": "buono buoni conformi senza%difetti idoneo",
    "Portuguese": "bom boas conformes sem%defeitos aprovados",
    "Russian": "хорошие Годные норма без%дефектов",
    "Hindi": "अच्छा सही सामान्य",
    "Polish": "dobry dobre poprawne bez%wad",
    "Turkish": "iyi sağlam hatasız kusursuz",
    "Vietnamese": "tốt đạt bình%thường",
    "Czech": "dobré v%pořádku bez%vad",
    "Thai": "ดี ปกติ",
}
DEFECT = {
    "English": "bad NG nok not_ok no%good Abnormal anomalies defective rejected faulty KO NG-2024 bad_parts "
    "non-conforming good_and_bad broken scratches reject_bin3",
    "German": "schlecht n.i.O. NIO nicht%in%Ordnung nicht_ok Ausschuss fehlerhaft Fehler defekt Kratzer beschädigt",
    "Chinese": "不良 不良品 缺陷 异常 異常 不合格 次品 不良品_2",
    "Japanese": "不良 不良品 異常 欠陥 不合格 キズ",
    "Korean": "불량 불량품 결함 불합격 비정상",
    "Spanish": "malo malas defectos defectuosos rechazado no%conforme no_ok dañado",
    "French": "mauvais défauts défectueux rebut non%conforme non-conformes pas%bon anormaux",
    "Italian": "difetti difettoso scarti non%conforme non%buono anomalo",
    "Portuguese": "defeito defeituosos rejeitados ruim reprovados não%conforme",
    "Russian": "брак дефекты плохие не%годен аномалии",
    "Hindi": "खराब दोष असामान्य",
    "Polish": "wada wadliwe uszkodzony zły",
    "Turkish": "kusurlu hatalı bozuk kötü",
    "Vietnamese": "lỗi hỏng không%đạt bất%thường",
    "Czech": "vadné špatné zmetky poškozený",
    "Thai": "เสีย ผิดปกติ ไม่ดี",
}


@pytest.mark.parametrize(("words", "said"), [(GOOD, "good"), (DEFECT, "defect")])
def test_good_and_defective_in_many_languages(words, said):
    names = [name.replace("%", space) for names in words.values() for name in names.split() for space in " _"]
    wrong = {name: meaning(name) for one in names for name in (one, one.upper()) if meaning(name) != said}
    assert wrong == {}


@pytest.mark.parametrize(
    "name",
    ["images", "photos", "screw", "metal_nut", "line 3", "2024-11", "IMG_0001", "candle", "kos01", "Class1", ""],
)
def test_most_names_say_nothing(name):
    assert meaning(name) == ""


def test_splits_and_masks():
    assert {meaning(name) for name in ("Train", "training")} == {"train"}
    assert {meaning(name) for name in ("Test", "test_public")} == {"test"}
    assert {meaning(name) for name in ("validation", "val")} == {"validation"}
    assert {meaning(name) for name in ("test_private", "test_private_mixed")} == {"unlabelled"}
    for name in ("ground_truth", "Ground Truth", "mask", "Masks", "labels", "annotations", "掩码", "マスク"):
        assert meaning(name) == "mask", name
    assert means_masks_only("Ground-Truth")
    assert not means_masks_only("labels")


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir",
        "#recycle",
        "$RECYCLE.BIN",
        ".thumbnails",
        ".@__thumb",
        "@Recycle",
        "#snapshot",
        "~snapshot",
        "thumbs",
        "Thumbnails",
        "lost+found",
        "RECYCLER",
        "__MACOSX",
        ".Trash-1000",
        "found.000",
        ".git",
    ],
)
def test_what_a_device_keeps_for_itself_is_passed_over(name):
    assert passed_over(name)


@pytest.mark.parametrize("name", ["good", "thumb screw", "recycling bins", "a.b", "100$", "part #3"])
def test_a_users_own_folders_are_not(name):
    assert not passed_over(name)
