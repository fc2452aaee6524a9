# Each of the people beside the others: what can be reached. Nothing to train.
_base_ = "oat-small_osie.py"

model = dict(_delete_=True, type="AnotherPerson")
