from words import count


def test_nothing():
    assert count("") == {}


def test_case():
    assert count("One one ONE two") == {"one": 3, "two": 1}


def test_signs():
    assert sum(count("a, b; c!").values()) == 3
