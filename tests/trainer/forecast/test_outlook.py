from __future__ import annotations

from heliostat_trainer.forecast.outlook import Outlook


def test_the_outlook_goes_by_steps_or_minutes_whichever_ends_first() -> None:
    assert Outlook(5, 10, 100.0, None).remaining_s == 100.0
    assert Outlook(5, 1000, 100.0, 2.0).remaining_s == 20.0
    assert Outlook(5, 1000, 60.0, 2.0).share == 0.5
    assert Outlook(0, 10, 1.0, None).remaining_s is None


def test_the_outlook_says_how_many_steps_the_minutes_will_do() -> None:
    outlook = Outlook(1, 1000, 11.2, 8.0)
    assert outlook.end == "of about 43"
    assert "a step takes 11.2 s on this machine: expect about 43 in the 8 min" in outlook.promise
    assert Outlook(10, 1000, 100.0, 8.0).end == "of about 48"
    assert Outlook(50, 1000, 481.0, 8.0).end == "of about 50"
    assert Outlook(1, 20, 11.2, 8.0).end == "of 20"
    assert Outlook(0, 20, 0.0, 8.0).end == Outlook(5, 20, 9.0, None).end == "of 20"
