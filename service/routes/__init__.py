"""The addresses of the API, each a few lines: what happens lies in the rooms below."""

from fastapi import APIRouter

from service.routes import about, detect, jobs, results

router = APIRouter()
for room in (detect, jobs, results, about):
    router.include_router(room.router)
