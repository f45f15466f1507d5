"""A Django application, small but as people write them: models, migrations, settings and tests of its own."""
